//! The values users write: durations, sizes, addresses and lists of them, parsed or refused in words.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::types::NodeId;

/// The longest duration taken, so that no sum of times overflows: 100 years.
pub const DURATION_MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;

/// The most addresses or peers in one list; more are a mistake.
pub const ADDRESSES_MAX: usize = 64;

/// The longest host name (RFC 1035 has 253 characters).
const HOST_BYTES_MAX: usize = 253;

/// Parses a whole number.
///
/// # Errors
/// A text for the user when it is none, or does not fit 64 bits.
pub fn number(text: &str) -> Result<u64, String> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_digits => Ok(number),
        Err(_) if is_digits => Err(format!("at most {}", u64::MAX)),
        Ok(_) | Err(_) => Err("that is no whole number: write digits only".into()),
    }
}

/// Parses a number of 1 or more.
///
/// # Errors
/// A text for the user.
pub fn count(text: &str) -> Result<u64, String> {
    match number(text)? {
        0 => Err("at least 1".into()),
        count => Ok(count),
    }
}

/// Parses a duration: `500ms`, `5s`, `2m`, `1h`, or several in a row, `1m30s`.
///
/// # Errors
/// A text for the user when it is none, or longer than [`DURATION_MS_MAX`].
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write 500ms, 5s, 2m, 1h or 1m30s");
    let mut rest = text;
    let mut total_ms = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or_else(wrong)?;
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            "" => return Err(format!("`{text}` has no unit: write {number}s or {number}ms")),
            _ => return Err(wrong()),
        };
        total_ms = number
            .checked_mul(unit_ms)
            .and_then(|part| total_ms.checked_add(part))
            .filter(|&sum| sum <= DURATION_MS_MAX)
            .ok_or_else(|| format!("`{text}` is too long: at most 100 years"))?;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Returns a duration in milliseconds, at most [`DURATION_MS_MAX`].
#[must_use]
pub fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(DURATION_MS_MAX).min(DURATION_MS_MAX)
}

/// Parses a time limit: a duration above zero.
///
/// # Errors
/// A text for the user.
pub fn limit(text: &str) -> Result<Duration, String> {
    let limit = duration(text)?;
    if limit.is_zero() {
        return Err("a time limit of 0 leaves no time to ask: give at least 1ms".into());
    }
    Ok(limit)
}

/// Parses a number of bytes: `4096`, `16KiB`, `64MiB`, `1GiB`, or decimal `10kB`, `10MB`, `1GB`.
///
/// # Errors
/// A text for the user when it is none, or does not fit 63 bits.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write 4096, 16KiB, 64MiB or 1GiB");
    let (number, unit) = leading_number(text).ok_or_else(wrong)?;
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(factor)
        .filter(|&bytes| bytes <= i64::MAX.unsigned_abs())
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// Parses one address, `HOST:PORT` or `[IPV6]:PORT`, and returns it as it was written.
///
/// # Errors
/// A text for the user. Names are not looked up here.
pub fn address(text: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        format!("`{text}` is no address ({why}): write HOST:PORT, such as 127.0.0.1:7101")
    };
    if text.contains("://") {
        return Err(wrong("a scheme stands before it"));
    }
    if text.contains(char::is_whitespace) {
        return Err(wrong("there is a space in it; a list has commas"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) =
                rest.split_once("]:").ok_or_else(|| wrong("an IPv6 address is [HOST]:PORT"))?;
            host.parse::<Ipv6Addr>().map_err(|error| wrong(&error.to_string()))?;
            (host, port)
        }
        None => {
            let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
            if host.contains(':') {
                return Err(wrong("an IPv6 address is [HOST]:PORT"));
            }
            (host, port)
        }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if host.is_empty() {
        return Err(wrong("the host is missing"));
    }
    if host.len() > HOST_BYTES_MAX || !host.chars().all(plain) {
        return Err(wrong("that is no host name"));
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if digits && number > 0 => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(wrong("the port is a number from 1 to 65535")),
    }
}

/// Addresses to ask, parsed from `HOST:PORT,HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<String>);

/// Parses a list of addresses; the same one twice counts once.
///
/// # Errors
/// A text for the user: an empty list, a bad address, more than [`ADDRESSES_MAX`].
pub fn addresses(text: &str) -> Result<Addresses, String> {
    let mut list = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let one = address(part)?;
        if !list.contains(&one) {
            list.push(one);
        }
    }
    match list.len() {
        0 => Err("no address in the list: write HOST:PORT,HOST:PORT".into()),
        1..=ADDRESSES_MAX => Ok(Addresses(list)),
        count => Err(format!("{count} addresses; at most {ADDRESSES_MAX}")),
    }
}

/// The nodes of a cluster, parsed from `1=HOST:PORT,2=HOST:PORT`. Whether they make a cluster is
/// checked with the rest of the node's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers(pub Vec<(NodeId, String)>);

/// Parses a list of peers, in the order written.
///
/// # Errors
/// A text for the user: an empty list, a peer that is not `ID=HOST:PORT`, more than [`ADDRESSES_MAX`].
pub fn peers(text: &str) -> Result<Peers, String> {
    let mut list = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (id, addr) = part.split_once('=').ok_or_else(|| {
            format!("`{part}` is no peer: write ID=HOST:PORT, such as 1=127.0.0.1:7101")
        })?;
        let id = id.trim().parse::<u64>().map_err(|_not_a_number| {
            format!("`{part}` is no peer: `{id}` is not the number of a node")
        })?;
        list.push((NodeId(id), address(addr.trim())?));
    }
    match list.len() {
        0 => Err("no peer in the list: write 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT".into()),
        1..=ADDRESSES_MAX => Ok(Peers(list)),
        count => Err(format!("{count} peers; at most {ADDRESSES_MAX}")),
    }
}

/// Splits the digits at the start of a text from what follows; `None` without digits or when the
/// number does not fit.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

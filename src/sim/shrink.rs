//! Fewer faults that do the same: parts of a list are left out for as long as what is left still fails.

/// Looks for a short part of `faults` with which `fails` holds, in at most `runs_max` tries. Returns nothing if it
/// does not even hold with all of them.
///
/// Halves, quarters and ever smaller parts are left out in turn (Zeller and Hildebrandt, "Simplifying and isolating
/// failure-inducing input", 2002).
#[must_use]
pub fn shrink(
    faults: Vec<u32>,
    runs_max: usize,
    fails: &mut dyn FnMut(&[u32]) -> bool,
) -> Option<Vec<u32>> {
    let mut runs = 1;
    if !fails(&faults) {
        return None;
    }
    let mut fewest = faults;
    let mut part = fewest.len();
    while part > 0 && runs < runs_max {
        let mut at = 0;
        let before = fewest.len();
        while at < fewest.len() && runs < runs_max {
            let mut rest = fewest.clone();
            rest.drain(at..(at + part).min(fewest.len()));
            runs += 1;
            if fails(&rest) {
                fewest = rest;
            } else {
                at += part;
            }
        }
        if fewest.len() == before || part > fewest.len() {
            part = if part == 1 { 0 } else { part.div_ceil(2).min(part - 1) };
        }
    }
    // The last failure that was seen is the one of what is returned.
    fails(&fewest).then_some(fewest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_a_hundred_are_found() {
        let mut runs = 0;
        let found = shrink((1..=100).collect(), 200, &mut |only| {
            runs += 1;
            only.contains(&17) && only.contains(&71)
        });
        assert_eq!(found, Some(vec![17, 71]));
        assert!(runs < 80, "{runs} runs");
    }

    #[test]
    fn a_failure_without_any_fault_needs_none() {
        assert_eq!(shrink(vec![1, 2, 3], 50, &mut |_| true), Some(Vec::new()));
    }

    #[test]
    fn what_does_not_fail_again_is_told() {
        assert_eq!(shrink(vec![1, 2, 3], 50, &mut |_| false), None);
    }

    #[test]
    fn tries_are_bounded() {
        let mut runs = 0;
        let found = shrink((0..1000).collect(), 30, &mut |only| {
            runs += 1;
            only.len() >= 900
        });
        assert!(found.is_some_and(|found| found.len() >= 900));
        assert!(runs <= 31, "{runs} runs");
    }
}

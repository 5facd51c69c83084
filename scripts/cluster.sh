#!/usr/bin/env bash
# Runs a raftq cluster on this machine: builds the program, starts nodes, kills and restarts them.
# Works with bash 3.2; needs nothing but cargo (to build) and the usual small tools.
set -eu -o pipefail

usage() {
    cat <<'HELP'
usage: scripts/cluster.sh N                start N nodes (1 to 7) and return when the cluster is ready
       scripts/cluster.sh VERB [ARG]...

  status            what runs, and the cluster as its leader sees it
  stop              end every node: SIGTERM, and SIGKILL for those that take too long
  kill ID           SIGKILL node ID, as a power cut would
  pause ID          SIGSTOP node ID; resume ID wakes it up
  restart ID        start node ID again (ends it first if it runs) and return when it is ready
  logs ID [-f]      the last lines of node ID's log; -f follows it
  leader            the number of the leader, alone; exit code 4 if there is none
  addrs             HOST:PORT,... alone
  raftq ARG...      the program itself, asking this cluster: raftq submit --wait -- echo hello
  clean             delete the state of a stopped cluster: its jobs are lost

environment:
  BASE_PORT         port of node 1 (default 7101), the others follow
  CLUSTER_DIR       where the state is kept (default .cluster in the repository)
  NODE_FLAGS        more flags for each node, such as NODE_FLAGS='--slots 8 --log-keep 1MiB'
  CARGO_TARGET_DIR  where cargo builds
  RAFTQ             a program to run instead of building one
  STOP_SECONDS      how long nodes may take to end before SIGKILL (default 20)
HELP
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CLUSTER_DIR=${CLUSTER_DIR:-$ROOT/.cluster}
case $CLUSTER_DIR in /*) ;; *) CLUSTER_DIR=$PWD/$CLUSTER_DIR ;; esac
# One directory has one name: nodes are told from other processes by it.
if [ -d "$CLUSTER_DIR" ]; then CLUSTER_DIR=$(cd "$CLUSTER_DIR" && pwd -P); fi

NODES_MAX=7          # as many voters as a node takes
READY_SECONDS=60     # how long a start may take
STOP_SECONDS=${STOP_SECONDS:-20}  # how long SIGTERM may take: the nodes' grace of 10 s and some more
GONE_SECONDS=10      # how long the system may take to end a killed process
MARK=raftq-cluster   # the file that marks a directory as made by this script

say() { printf '%s\n' "$*" >&2; }
die() {
    code=$1
    shift
    say "cluster.sh: $*"
    exit "$code"
}

# --- the program ---------------------------------------------------------------------------------

target_dir() {
    case ${CARGO_TARGET_DIR:-} in
        '') printf '%s' "$ROOT/target" ;;
        /*) printf '%s' "$CARGO_TARGET_DIR" ;;
        *) printf '%s' "$PWD/$CARGO_TARGET_DIR" ;;
    esac
}

BIN=${RAFTQ:-$(target_dir)/release/raftq}
case $BIN in /*) ;; *) BIN=$PWD/$BIN ;; esac

# Builds the program; cargo does nothing when it is up to date.
build() {
    [ -n "${RAFTQ:-}" ] && return 0
    if ! command -v cargo >/dev/null 2>&1; then
        [ -x "$BIN" ] && return 0
        die 1 "cargo is not installed: see https://rustup.rs"
    fi
    local quiet=--quiet
    if [ ! -x "$BIN" ]; then
        quiet=
        say "cluster.sh: building the program; the first time takes a few minutes"
    fi
    # shellcheck disable=SC2086 # an empty $quiet is no word
    CARGO_TARGET_DIR=$(target_dir) cargo build --release --locked $quiet --bin raftq \
        --manifest-path "$ROOT/Cargo.toml" || die 1 "the build failed"
}

need_bin() { [ -x "$BIN" ] || build; }

# Asks this cluster; RAFTQ_ADDRS of the caller's shell must not lead elsewhere.
ask() { RAFTQ_ADDRS=$(addrs) "$BIN" "$@"; }

# --- the state -----------------------------------------------------------------------------------
# $CLUSTER_DIR/raftq-cluster   the mark
# $CLUSTER_DIR/{size,base_port,flags,addrs}
# $CLUSTER_DIR/nodeN/{data/,log,pid}

node_dir() { printf '%s' "$CLUSTER_DIR/node$1"; }
saved() { cat "$CLUSTER_DIR/$1" 2>/dev/null || true; }
size() { saved size; }
addrs() { saved addrs; }
port_of() { printf '%s' $(($(saved base_port) + $1 - 1)); }
is_number() { case $1 in '' | 0* | *[!0-9]* | ??????*) return 1 ;; *) return 0 ;; esac; }

need_cluster() {
    [ -f "$CLUSTER_DIR/$MARK" ] && [ -n "$(size)" ] ||
        die 1 "there is no cluster in $CLUSTER_DIR; start one: scripts/cluster.sh 5"
}

need_node() {
    need_cluster
    is_number "${1:-}" && [ "$1" -ge 1 ] && [ "$1" -le "$(size)" ] ||
        die 2 "which node? Give a number from 1 to $(size)"
}

# --- processes -----------------------------------------------------------------------------------

# Prints the words of a process's command line, a line each; nothing if there is no such process
# (or only its zombie).
words_of() {
    if [ -d /proc/self ]; then
        { tr '\0' '\n' <"/proc/$1/cmdline"; } 2>/dev/null || true
    else
        ps -ww -p "$1" -o args= 2>/dev/null || true
    fi
}

# Prints the pid of node $1 if it runs. A pid file may be stale and its number another program's by
# now, so only a process that runs this node's data directory counts.
pid_of() {
    local pid words data
    data=$(node_dir "$1")/data
    pid=$(cat "$(node_dir "$1")/pid" 2>/dev/null) || return 1
    is_pid "$pid" || return 1
    words=$(words_of "$pid")
    case $words in
        *--data*"$data"*) printf '%s' "$pid" ;;
        *) return 1 ;;
    esac
}

is_pid() { case $1 in '' | *[!0-9]* | 0 | 1) return 1 ;; *) return 0 ;; esac; }

# Prints running, paused or dead.
state_of() {
    local pid letter
    pid=$(pid_of "$1") || {
        printf dead
        return 0
    }
    if [ -r "/proc/$pid/stat" ]; then
        # The name in parentheses may hold anything: the state follows the last one.
        letter=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -c1)
    else
        letter=$(ps -p "$pid" -o stat= 2>/dev/null | cut -c1)
    fi
    case $letter in
        T | t) printf paused ;;
        Z | X | '') printf dead ;;
        *) printf running ;;
    esac
}

signal() { kill "-$2" "$(pid_of "$1")" 2>/dev/null || true; }

# Waits up to $2 seconds until node $1 is gone.
wait_gone() {
    local left=$(($2 * 10))
    while [ "$(state_of "$1")" != dead ]; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.1
    done
}

# --- starting ------------------------------------------------------------------------------------

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

need_port() {
    local port
    port=$(port_of "$1")
    if port_is_taken "$port"; then
        die 1 "port $port (node $1) is taken by another program. End it, or choose other ports:" \
            "BASE_PORT=7201 scripts/cluster.sh $(size)"
    fi
}

# Makes the directory, or checks that it is ours and fits what is asked.
prepare() {
    local count=$1 port i list=''
    if [ -f "$CLUSTER_DIR/$MARK" ] && [ -n "$(size)" ]; then
        [ "$count" = "$(size)" ] ||
            die 2 "the cluster in $CLUSTER_DIR has $(size) nodes, and its membership is fixed." \
                "Start it: scripts/cluster.sh $(size); or throw it away first: scripts/cluster.sh clean"
        [ -z "${BASE_PORT:-}" ] || [ "$BASE_PORT" = "$(saved base_port)" ] ||
            die 2 "the cluster in $CLUSTER_DIR has BASE_PORT=$(saved base_port), and addresses are" \
                "fixed. For a second cluster set CLUSTER_DIR as well"
    else
        if [ -d "$CLUSTER_DIR" ] && [ ! -f "$CLUSTER_DIR/$MARK" ] && [ -n "$(ls -A "$CLUSTER_DIR")" ]; then
            die 2 "$CLUSTER_DIR is not empty and was not made by this script: choose another CLUSTER_DIR"
        fi
        port=${BASE_PORT:-7101}
        is_number "$port" && [ "$port" -ge 1 ] && [ $((port + count - 1)) -le 65535 ] ||
            die 2 "BASE_PORT=$port: ports are numbers from 1 to 65535"
        mkdir -p "$CLUSTER_DIR"
        CLUSTER_DIR=$(cd "$CLUSTER_DIR" && pwd -P)
        printf 'made by scripts/cluster.sh of raftq; clean deletes this directory\n' >"$CLUSTER_DIR/$MARK"
        i=1
        while [ "$i" -le "$count" ]; do
            list=$list${list:+,}127.0.0.1:$((port + i - 1))
            i=$((i + 1))
        done
        printf '%s\n' "$port" >"$CLUSTER_DIR/base_port"
        printf '%s\n' "$list" >"$CLUSTER_DIR/addrs"
        printf '%s\n' "$count" >"$CLUSTER_DIR/size" # last: without it there is no cluster
    fi
    # Flags given now replace those of the start before; without any, those hold.
    if [ -n "${NODE_FLAGS+set}" ]; then printf '%s\n' "$NODE_FLAGS" >"$CLUSTER_DIR/flags"; fi
}

# Starts the process of node $1; readiness is waited for elsewhere.
launch() {
    local id=$1 dir i peers='' flags
    dir=$(node_dir "$id")
    mkdir -p "$dir"
    i=1
    while [ "$i" -le "$(size)" ]; do
        peers=$peers${peers:+,}$i=127.0.0.1:$(port_of "$i")
        i=$((i + 1))
    done
    flags=${NODE_FLAGS-$(saved flags)}
    set -- node --id "$id" --listen "127.0.0.1:$(port_of "$id")" --peers "$peers" --data "$dir/data"
    set -f
    # shellcheck disable=SC2086 # NODE_FLAGS is a list of words
    set -- "$@" $flags
    set +f
    # A session of its own where there is setsid, so that ctrl-c at the script does not reach it.
    (
        unset RAFTQ_ADDRS
        if command -v setsid >/dev/null 2>&1; then
            exec setsid nohup "$BIN" "$@"
        else
            exec nohup "$BIN" "$@"
        fi
    ) >>"$dir/log" 2>&1 </dev/null &
    printf '%s\n' "$!" >"$dir/pid"
    disown "$!" 2>/dev/null || true
}

# Between fork and exec the process is still this script: wait until it is the node, or gone.
wait_launched() {
    local left=50
    until pid_of "$1" >/dev/null; do
        kill -0 "$(cat "$(node_dir "$1")/pid")" 2>/dev/null && [ "$left" -gt 0 ] || return 0
        left=$((left - 1))
        sleep 0.05
    done
}

show_end() {
    say "cluster.sh: node $1 has ended. The last lines of $(node_dir "$1")/log:"
    tail -n 12 "$(node_dir "$1")/log" 2>/dev/null | sed 's/^/    /' >&2 || true
}

# Waits until the given command succeeds, while the nodes named in $ids run.
wait_ready() {
    local ids=$1 what=$2 begun=$SECONDS
    shift 2
    while :; do
        need_alive "$ids"
        if "$@" >/dev/null 2>&1; then break; fi
        if [ $((SECONDS - begun)) -ge "$READY_SECONDS" ]; then
            say "cluster.sh: $what, even after $READY_SECONDS s:"
            "$@" >&2 || true
            exit 1
        fi
        sleep 0.1
    done
    need_alive "$ids"
}

need_alive() {
    local id
    for id in $1; do
        if [ "$(state_of "$id")" = dead ]; then
            show_end "$id"
            exit 1
        fi
    done
}

cluster_is_ready() {
    ask --timeout 2s cluster ready && ask --timeout 2s cluster status --alive "$(size)"
}

node_is_ready() { RAFTQ_ADDRS=127.0.0.1:$(port_of "$1") "$BIN" --timeout 2s cluster ready; }

# --- verbs ---------------------------------------------------------------------------------------

ids() {
    local i=1
    while [ "$i" -le "$(size)" ]; do
        printf '%s ' "$i"
        i=$((i + 1))
    done
}

start() {
    local count=$1 id dead='' paused=''
    [ "$count" -ge 1 ] && [ "$count" -le "$NODES_MAX" ] || die 2 "$count nodes: from 1 to $NODES_MAX"
    prepare "$count"
    for id in $(ids); do
        case $(state_of "$id") in
            dead) dead="$dead $id" ;;
            paused) paused="$paused $id" ;;
            running) ;;
        esac
    done
    [ -z "$paused" ] || die 1 "paused:$paused. Wake them up first: scripts/cluster.sh resume ID"
    if [ -n "$dead" ]; then
        build
        for id in $dead; do need_port "$id"; done
        for id in $dead; do launch "$id"; done
        for id in $dead; do wait_launched "$id"; done
    fi
    need_bin
    wait_ready "$(ids)" "the cluster is not ready" cluster_is_ready
    if [ -n "$dead" ]; then say "started:$dead"; else say "all $count nodes were running already"; fi
    say "node $(ask cluster leader 2>/dev/null || printf '?') leads; state and logs in $CLUSTER_DIR"
    say "  export RAFTQ_ADDRS=$(addrs)"
    say "  $(shown "$BIN") submit --wait -- echo hello"
    say "  $(shown "$BIN") cluster status"
    say "  printf 'status\\nnodes\\njobs\\n' | nc 127.0.0.1 $(port_of 1)"
}

# Prints a path as a word of a shell command.
shown() {
    case $1 in
        "$PWD"/*) printf '%q' "${1#"$PWD"/}" ;;
        *) printf '%q' "$1" ;;
    esac
}

status() {
    local id pid
    need_cluster
    need_bin
    printf '%-5s %-16s %-8s %s\n' NODE ADDRESS STATE PID
    for id in $(ids); do
        pid=$(pid_of "$id") || pid=-
        printf '%-5s %-16s %-8s %s\n' "$id" "127.0.0.1:$(port_of "$id")" "$(state_of "$id")" "$pid"
    done
    for id in $(ids); do
        if [ "$(state_of "$id")" = running ]; then
            ask cluster status
            return
        fi
    done
    die 4 "no node runs; start them: scripts/cluster.sh $(size)"
}

stop() {
    local id running=''
    need_cluster
    for id in $(ids); do
        [ "$(state_of "$id")" = dead ] && continue
        running="$running $id"
        signal "$id" TERM
        signal "$id" CONT # a paused process hears no SIGTERM
    done
    if [ -z "$running" ]; then
        say "nothing runs"
        return 0
    fi
    local deadline=$((SECONDS + STOP_SECONDS)) left
    for id in $running; do
        left=$((deadline - SECONDS))
        [ "$left" -ge 0 ] || left=0
        if ! wait_gone "$id" "$left"; then
            say "node $id does not end by itself: SIGKILL"
            signal "$id" KILL
            wait_gone "$id" "$GONE_SECONDS" || die 1 "node $id (pid $(pid_of "$id")) cannot be ended"
        fi
    done
    for id in $running; do rm -f "$(node_dir "$id")/pid"; done
    say "stopped:$running"
}

kill_node() {
    need_node "${1:-}"
    [ "$(state_of "$1")" != dead ] || die 1 "node $1 does not run"
    signal "$1" KILL
    wait_gone "$1" "$GONE_SECONDS" || die 1 "node $1 cannot be ended"
    say "killed node $1"
}

pause_node() {
    need_node "${1:-}"
    [ "$(state_of "$1")" != dead ] || die 1 "node $1 does not run"
    signal "$1" STOP
    say "paused node $1; wake it up: scripts/cluster.sh resume $1"
}

resume_node() {
    need_node "${1:-}"
    [ "$(state_of "$1")" != dead ] || die 1 "node $1 does not run"
    signal "$1" CONT
    say "resumed node $1"
}

restart_node() {
    need_node "${1:-}"
    need_bin
    if [ "$(state_of "$1")" != dead ]; then
        signal "$1" TERM
        signal "$1" CONT
        wait_gone "$1" "$STOP_SECONDS" || signal "$1" KILL
        wait_gone "$1" "$GONE_SECONDS" || die 1 "node $1 cannot be ended"
    fi
    need_port "$1"
    launch "$1"
    wait_launched "$1"
    wait_ready "$1" "node $1 is not ready" node_is_ready "$1"
    say "node $1 is ready"
}

logs() {
    need_node "${1:-}"
    local log
    log=$(node_dir "$1")/log
    [ -f "$log" ] || die 1 "node $1 has written no log yet"
    case ${2:-} in
        '') tail -n 200 "$log" ;;
        -f) exec tail -n 200 -f "$log" ;;
        *) die 2 "logs ID [-f]" ;;
    esac
}

clean() {
    local id
    if [ ! -e "$CLUSTER_DIR" ]; then
        say "nothing to clean"
        return 0
    fi
    [ -f "$CLUSTER_DIR/$MARK" ] ||
        die 2 "$CLUSTER_DIR was not made by this script: it stays"
    if [ -n "$(size)" ]; then
        for id in $(ids); do
            [ "$(state_of "$id")" = dead ] || die 1 "node $id runs; first: scripts/cluster.sh stop"
        done
    fi
    rm -rf "$CLUSTER_DIR"
    say "deleted $CLUSTER_DIR"
}

is_number "$STOP_SECONDS" || die 2 "STOP_SECONDS=$STOP_SECONDS is no number of seconds"
verb=${1:-help}
[ $# -eq 0 ] || shift
case $verb in
    start)
        is_number "${1:-3}" || die 2 "start N: how many nodes?"
        start "${1:-3}"
        ;;
    status) status ;;
    stop) stop ;;
    kill) kill_node "$@" ;;
    pause) pause_node "$@" ;;
    resume) resume_node "$@" ;;
    restart) restart_node "$@" ;;
    logs) logs "$@" ;;
    leader)
        [ -n "$(size)" ] || die 4 "there is no cluster in $CLUSTER_DIR"
        need_bin
        ask cluster leader
        ;;
    addrs)
        need_cluster
        addrs
        ;;
    raftq)
        need_cluster
        need_bin
        ask "$@"
        ;;
    clean) clean ;;
    help | -h | --help) usage ;;
    *)
        if is_number "$verb"; then
            start "$verb"
        else
            usage >&2
            die 2 "no such verb: $verb"
        fi
        ;;
esac

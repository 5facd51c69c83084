#!/usr/bin/env bash
# Runs a raftq cluster on this machine: builds the program, starts nodes, kills and restarts them.
# Needs Linux, bash, cargo (to build) and the usual small tools.

# Another shell hands over to bash: sh scripts/cluster.sh 5.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set +o posix +m
set -eu -o pipefail
unset CDPATH
# A closed descriptor would become the number of the next file opened.
for fd in 0 1 2; do [ -e "/proc/self/fd/$fd" ] || eval "exec $fd<>/dev/null"; done

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
  LOCK_SECONDS      how long to wait for another cluster.sh at work there (default 60)
HELP
}

# The repository, even if the script is called by a symbolic link.
self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do
    link=$(readlink "$self")
    case $link in /*) self=$link ;; *) self=$(dirname "$self")/$link ;; esac
done
ROOT=$(cd "$(dirname "$self")/.." && pwd -P)

# Prints a path as a word of a shell command; with a slash, so that it can be run.
shown() {
    local path=${1#"$PWD"/}
    case $path in */*) ;; *) path=./$path ;; esac
    printf '%q' "$path"
}

# How to call this script again, for advice that can be copied.
ME=$(shown "$0")
[ -z "${CLUSTER_DIR:-}" ] || ME="CLUSTER_DIR=$(shown "$CLUSTER_DIR") $ME"

CLUSTER_DIR=${CLUSTER_DIR:-$ROOT/.cluster}
case $CLUSTER_DIR in /*) ;; *) CLUSTER_DIR=$PWD/$CLUSTER_DIR ;; esac
GIVEN_DIR=$CLUSTER_DIR
# One directory has one name: nodes are told from other processes by it.
resolve_dir() {
    local dir
    if [ -d "$CLUSTER_DIR" ] && dir=$(cd "$CLUSTER_DIR" 2>/dev/null && pwd -P); then CLUSTER_DIR=$dir; fi
}
resolve_dir

NODES_MAX=7          # as many voters as a node takes
READY_SECONDS=60     # how long a start may take
STOP_SECONDS=${STOP_SECONDS:-20}  # how long SIGTERM may take: the nodes' grace of 10 s and some more
GONE_SECONDS=10      # how long the system may take to end a killed process
LOCK_SECONDS=${LOCK_SECONDS:-60}  # how long to wait for another call: a stop and some more
MARK=raftq-cluster   # the file that marks a directory as made by this script, and its lock

say() { printf '%s\n' "$*" >&2; }
die() {
    code=$1
    shift
    say "cluster.sh: $*"
    exit "$code"
}

# --- the program ---------------------------------------------------------------------------------

TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
case $TARGET_DIR in /*) ;; *) TARGET_DIR=$PWD/$TARGET_DIR ;; esac
BIN=${RAFTQ:-$TARGET_DIR/release/raftq}
case $BIN in /*) ;; *) BIN=$PWD/$BIN ;; esac

# Builds the program; cargo does nothing when it is up to date.
build() {
    local quiet=--quiet
    if ! has_bin; then
        [ -z "${RAFTQ:-}" ] || die 2 "RAFTQ=$RAFTQ is no program that can be run"
        command -v cargo >/dev/null || die 1 "cargo is not installed: see https://rustup.rs"
        quiet=
        say "cluster.sh: building the program; the first time takes a few minutes"
    fi
    # What was given, or cannot be built again, is taken as it is.
    if [ -n "${RAFTQ:-}" ] || ! command -v cargo >/dev/null; then return 0; fi
    # shellcheck disable=SC2086 # an empty $quiet is no word
    CARGO_TARGET_DIR=$TARGET_DIR cargo build --release --locked $quiet --bin raftq \
        --manifest-path "$ROOT/Cargo.toml" || die 1 "the build failed"
}

has_bin() { [ -f "$BIN" ] && [ -x "$BIN" ]; }
need_bin() { has_bin || build; }

# Asks this cluster; RAFTQ_ADDRS of the caller's shell must not lead elsewhere.
ask() { RAFTQ_ADDRS=$(addrs) "$BIN" "$@"; }

# --- the state -----------------------------------------------------------------------------------
# $CLUSTER_DIR/raftq-cluster   the mark, and the lock
# $CLUSTER_DIR/{size,base_port,flags,addrs,program}
# $CLUSTER_DIR/nodeN/{data/,log,pid}; pid is for people, the script asks the system

node_dir() { printf '%s' "$CLUSTER_DIR/node$1"; }
saved() { cat "$CLUSTER_DIR/$1" 2>/dev/null || true; }
size() { saved size; }
addrs() { saved addrs; }
port_of() { printf '%s' $(($(saved base_port) + $1 - 1)); }
is_number() { case $1 in '' | 0* | *[!0-9]* | ??????*) return 1 ;; *) return 0 ;; esac; }

ids() { seq 1 "$(size)"; }
ids_all() { seq 1 "$NODES_MAX"; }

has_cluster() {
    [ -f "$CLUSTER_DIR/$MARK" ] && { [ -e "$CLUSTER_DIR/size" ] || [ -d "$CLUSTER_DIR/node1" ]; }
}

need_cluster() {
    has_cluster || die 1 "there is no cluster in $CLUSTER_DIR; start one: $ME 5"
    is_number "$(size)" && [ "$(size)" -le "$NODES_MAX" ] && is_number "$(saved base_port)" &&
        [ -n "$(addrs)" ] ||
        die 1 "the state in $CLUSTER_DIR is damaged (files size, base_port, addrs)." \
            "Throw it away: $ME stop && $ME clean"
}

# Keeps other calls from changing this cluster until this one ends or calls unlock. Returns 1 if the
# cluster was cleaned away meanwhile. Without flock, which every Linux should have, calls may collide.
lock() {
    local mark=$CLUSTER_DIR/$MARK deadline=$((SECONDS + LOCK_SECONDS)) told=''
    command -v flock >/dev/null || return 0
    [ -f "$mark" ] || return 1
    # Some network file systems lock only what is open for writing.
    if [ -w "$mark" ]; then exec 9>>"$mark"; else exec 9<"$mark"; fi
    until flock -n 9; do
        [ "$SECONDS" -lt "$deadline" ] ||
            die 1 "another cluster.sh is still at work on $CLUSTER_DIR, after $LOCK_SECONDS s." \
                "Nothing was done; try again when it has ended"
        [ -n "$told" ] || say "cluster.sh: another cluster.sh is at work on $CLUSTER_DIR: waiting for it"
        told=yes
        sleep 0.1
    done
    [ "$mark" -ef /proc/self/fd/9 ]
}

unlock() { exec 9>&-; }

lock_cluster() { lock || die 1 "there is no cluster in $CLUSTER_DIR any more; start one: $ME 5"; }

need_node() {
    need_cluster
    is_number "${1:-}" && [ "$1" -le "$(size)" ] || die 2 "which node? Give a number from 1 to $(size)"
}

# --- processes -----------------------------------------------------------------------------------

# Whether process $1 is a node with exactly the data directory $2: its words are ... PROGRAM node ...
# --data DIR ..., and the program is this one, the one that was started ($3), or another raftq. What setsid
# is about to become is none yet: while one program takes the place of another a process has no words.
is_node() {
    local word last='' verb=''
    while IFS= read -r -d '' word; do
        case $last,$word in ,setsid | ,*/setsid) return 1 ;; esac
        if [ "$word" = node ]; then
            case $last in "$BIN" | "$3" | raftq | */raftq) verb=node ;; esac
        fi
        if [ -n "$verb" ] && [ "$last" = --data ] && [ "$word" = "$2" ]; then return 0; fi
        last=$word
    done 2>/dev/null <"/proc/$1/cmdline"
    return 1
}

# Prints the pid of node $1 if it runs. A pid file may be lost, or its number another program's by now:
# what counts is which process runs this node's data directory.
pid_of() {
    local found pid program nodes=' ' data=$CLUSTER_DIR/node$1/data
    found=$(LC_ALL=C grep -lszxF -e "$data" /proc/[0-9]*/cmdline) || true
    program=$(saved program)
    for pid in ${found//[!0-9[:space:]]/}; do
        ! is_node "$pid" "$data" "$program" || nodes="$nodes$pid "
    done
    # A child that is about to become a job has the words of its node for a moment.
    for pid in $nodes; do
        case $nodes in *" $(parent_of "$pid") "*) continue ;; esac
        printf '%s' "$pid"
        return 0
    done
    return 1
}

# Prints the parent of process $1, or 0 if it has ended. What follows its name, which may hold anything,
# is its state and its parent.
parent_of() {
    local stat parent
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || stat=') X 0'
    read -r _ parent _ <<<"${stat##*) }"
    printf '%s' "$parent"
}

# Prints running, paused or dead.
state_of() {
    local pid letter=''
    # The name in parentheses may hold anything: the state follows the last one.
    if pid=$(pid_of "$1") && letter=$(cat "/proc/$pid/stat" 2>/dev/null); then letter=${letter##*) }; fi
    case $letter in
        [Tt]*) printf paused ;;
        [ZX]* | '') printf dead ;;
        *) printf running ;;
    esac
}

runs() { [ "$(state_of "$1")" != dead ]; }

# Sends node $1 a signal; one that has ended meanwhile needs none.
signal() {
    local pid
    pid=$(pid_of "$1") || return 0
    kill "-$2" "$pid" 2>/dev/null || ! pid_of "$1" >/dev/null ||
        die 1 "node $1 (pid $pid) may not be signalled: it belongs to another user"
}

# Waits up to $2 seconds until node $1 is gone.
wait_gone() {
    local left=$(($2 * 10))
    while runs "$1"; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 0.1
    done
}

# Ends the given nodes: SIGTERM, then SIGKILL.
end_nodes() {
    local id left deadline=$((SECONDS + STOP_SECONDS))
    for id in "$@"; do
        signal "$id" TERM
        signal "$id" CONT # a paused process hears no SIGTERM
    done
    for id in "$@"; do
        left=$((deadline - SECONDS))
        wait_gone "$id" $((left > 0 ? left : 0)) && continue
        say "node $id does not end by itself: SIGKILL"
        kill_node "$id"
    done
}

kill_node() {
    signal "$1" KILL
    wait_gone "$1" "$GONE_SECONDS" || die 1 "node $1 (pid $(pid_of "$1")) cannot be ended"
}

# Refuses if a process holds the data directory of a node all the same: one that was started by
# another name of the directory, or before the directory was moved.
need_unheld() {
    local id file code
    for id in $(ids_all); do
        file=$(node_dir "$id")/data/lock
        [ -f "$file" ] || continue
        code=0
        flock -n "$file" true 2>/dev/null || code=$?
        [ "$code" -eq 1 ] || continue
        die 1 "a process holds ${file%/lock}, started under another name or by another user." \
            "lslocks shows its number; end it first"
    done
}

# --- starting ------------------------------------------------------------------------------------

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints a BASE_PORT from which $1 ports are free.
free_base() {
    local base port
    for base in $(seq 7201 100 9901); do
        for port in $(seq "$base" $((base + $1 - 1))); do ! port_is_taken "$port" || continue 2; done
        break
    done
    printf '%s' "$base"
}

# Refuses if the port $2 of node $1 is taken; $3 is the number of nodes. A port that was taken by the
# node itself meanwhile, started by another call, is fine: it listens only after its process can be seen.
need_port() {
    port_is_taken "$2" || return 0
    ! runs "$1" || return 0
    if has_cluster; then
        die 1 "port $2 (node $1) is taken by another program, and a cluster keeps its ports. End that" \
            "program, or throw this cluster away for one on other ports:" \
            "$ME stop && $ME clean && BASE_PORT=$(free_base "$3") $ME $3"
    fi
    die 1 "port $2 (node $1) is taken by another program. End it, or choose other ports:" \
        "BASE_PORT=$(free_base "$3") $ME $3"
}

# Refuses what cannot work, and writes nothing; sets $dead to the nodes to start.
look() {
    local count=$1 port id running='' paused='' found
    dead=''
    if has_cluster; then
        need_cluster
        port=$(saved base_port)
        [ "$count" = "$(size)" ] ||
            die 2 "the cluster in $CLUSTER_DIR has $(size) nodes, and its membership is fixed." \
                "Start it: $ME $(size); or throw it away first: $ME stop && $ME clean"
        [ -z "${BASE_PORT:-}" ] || [ "$BASE_PORT" = "$port" ] ||
            die 2 "the cluster in $CLUSTER_DIR has BASE_PORT=$port, and addresses are fixed. For a" \
                "second cluster set CLUSTER_DIR as well; or throw this one away first: $ME stop && $ME clean"
    else
        if [ -e "$CLUSTER_DIR" ]; then
            [ -d "$CLUSTER_DIR" ] || die 2 "$CLUSTER_DIR is no directory: choose another CLUSTER_DIR"
            found=$(ls -A "$CLUSTER_DIR") || die 1 "$CLUSTER_DIR cannot be read"
            [ -z "$found" ] || [ -f "$CLUSTER_DIR/$MARK" ] ||
                die 2 "$CLUSTER_DIR is not empty and was not made by this script: choose another CLUSTER_DIR"
        fi
        port=${BASE_PORT:-7101}
        is_number "$port" && [ $((port + count - 1)) -le 65535 ] ||
            die 2 "BASE_PORT=$port: ports are numbers from 1 to 65535, one for each node"
    fi
    for id in $(seq 1 "$count"); do
        case $(state_of "$id") in
            dead) dead="$dead $id" ;;
            paused) paused="$paused $id" ;;
            running) running="$running $id" ;;
        esac
    done
    has_cluster || [ -z "$running$paused" ] ||
        die 1 "nodes of a cluster whose state is lost run:$running$paused. End them first: $ME stop"
    [ -z "$paused" ] || die 1 "paused:$paused. Wake them up first: $ME resume ID"
    for id in $dead; do need_port "$id" $((port + id - 1)) "$count"; done
}

# Makes the directory of the cluster and locks it; once more if a clean came between.
lock_new() {
    for _ in 1 2 3 4 5; do
        { mkdir -p "$CLUSTER_DIR" && resolve_dir && : >>"$CLUSTER_DIR/$MARK"; } ||
            die 1 "$CLUSTER_DIR cannot be written: choose another CLUSTER_DIR"
        ! lock || return 0
    done
    die 1 "$CLUSTER_DIR is deleted again and again by somebody else"
}

# Writes what holds for the life of a cluster of $1 nodes.
record() {
    local port=${BASE_PORT:-7101} id list=''
    printf 'made by scripts/cluster.sh of raftq; clean deletes this directory\n' >"$CLUSTER_DIR/$MARK"
    for id in $(seq 1 "$1"); do list=$list${list:+,}127.0.0.1:$((port + id - 1)); done
    printf '%s\n' "$port" >"$CLUSTER_DIR/base_port"
    printf '%s\n' "$list" >"$CLUSTER_DIR/addrs"
    # The size comes last, and at once: without it there is no cluster.
    printf '%s\n' "$1" >"$CLUSTER_DIR/size.new"
    mv -f "$CLUSTER_DIR/size.new" "$CLUSTER_DIR/size"
}

# Starts the process of node $1; readiness is waited for elsewhere.
launch() {
    local id=$1 dir i fd peers='' flags
    dir=$(node_dir "$id")
    { mkdir -p "$dir" && : >>"$dir/log" && : >"$dir/pid" && printf '%s\n' "$BIN" >"$CLUSTER_DIR/program"; } ||
        die 1 "$dir cannot be written; node $id was not started"
    for i in $(ids); do peers=$peers${peers:+,}$i=127.0.0.1:$(port_of "$i"); done
    flags=${NODE_FLAGS-$(saved flags)}
    set -- node --id "$id" --listen "127.0.0.1:$(port_of "$id")" --peers "$peers" --data "$dir/data"
    set -f
    # shellcheck disable=SC2086 # NODE_FLAGS is a list of words
    set -- "$@" $flags
    set +f
    # A session of its own, so that neither ctrl-c at the script nor the end of its terminal reaches it.
    (
        unset RAFTQ_ADDRS
        # Neither the lock nor what the caller has open is for the node and its jobs.
        for fd in /proc/self/fd/*; do
            [ "${fd##*/}" -le 2 ] || eval "exec ${fd##*/}>&-"
        done
        trap '' HUP
        exec setsid "$BIN" "$@"
    ) >>"$dir/log" 2>&1 </dev/null &
    printf '%s\n' "$!" >"$dir/pid"
    disown "$!" 2>/dev/null || true
}

# Between fork and exec the process is still this script, then setsid: wait until it is the node, or gone.
wait_launched() {
    local left=50
    until pid_of "$1" >/dev/null; do
        kill -0 "$(cat "$(node_dir "$1")/pid")" 2>/dev/null && [ "$left" -gt 0 ] || return 0
        left=$((left - 1))
        sleep 0.05
    done
}

# Whether a node that was launched runs. Where the program is a script, one program takes the place of
# another once more, and the process has no words for a moment: nobody would know it.
is_there() {
    local execs=3
    while ! runs "$1"; do
        kill -0 "$(cat "$(node_dir "$1")/pid")" 2>/dev/null && [ "$execs" -gt 0 ] || return 1
        execs=$((execs - 1))
        wait_launched "$1"
    done
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
        ! is_there "$id" || continue
        say "cluster.sh: node $id has ended. The last lines of $(node_dir "$id")/log:"
        tail -n 12 "$(node_dir "$id")/log" 2>/dev/null | sed 's/^/    /' >&2 || true
        die 1 "the other nodes are left as they are; end them: $ME stop"
    done
}

cluster_is_ready() {
    ask --timeout 2s cluster ready && ask --timeout 2s cluster status --alive "$(size)"
}

node_is_ready() { RAFTQ_ADDRS=127.0.0.1:$(port_of "$1") "$BIN" --timeout 2s cluster ready; }

# --- verbs ---------------------------------------------------------------------------------------

start() {
    local count=$1 id dead=''
    is_number "$count" && [ "$count" -le "$NODES_MAX" ] || die 2 "$count nodes: a number from 1 to $NODES_MAX"
    # Looked at twice: before the build, which can take minutes, and when nobody else can change it.
    look "$count"
    if [ -n "$dead" ]; then build; else need_bin; fi
    lock_new
    look "$count"
    has_cluster || record "$count"
    for id in $dead; do launch "$id"; done
    for id in $dead; do wait_launched "$id"; done
    unlock # so that what is waited for can be stopped
    wait_ready "$(ids)" "the cluster is not ready" cluster_is_ready
    # Flags that work replace those of the start before; without any, those hold.
    if [ -n "${NODE_FLAGS+set}" ]; then printf '%s\n' "$NODE_FLAGS" >"$CLUSTER_DIR/flags"; fi
    if [ -n "$dead" ]; then say "started:$dead"; else say "all $count nodes were running already"; fi
    say "node $(ask cluster leader 2>/dev/null || printf '?') leads; state and logs in $CLUSTER_DIR"
    say "  export RAFTQ_ADDRS=$(addrs)"
    say "  $(shown "$BIN") submit --wait -- echo hello"
    say "  $(shown "$BIN") cluster status"
    say "  printf 'status\\nnodes\\njobs\\n' | nc 127.0.0.1 $(port_of 1)"
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
        [ "$(state_of "$id")" = running ] || continue
        ask cluster status
        return
    done
    die 4 "no node runs; start them: $ME $(size)"
}

stop() {
    local id running=''
    # Nodes may outlive their directory, or what is written in it.
    if [ -f "$CLUSTER_DIR/$MARK" ]; then lock_cluster; fi
    for id in $(ids_all); do
        ! runs "$id" || running="$running $id"
    done
    # shellcheck disable=SC2086 # a list of numbers
    end_nodes $running
    need_unheld
    for id in $(ids_all); do rm -f "$(node_dir "$id")/pid"; done
    if [ -n "$running" ]; then say "stopped:$running"; else say "nothing runs in $CLUSTER_DIR"; fi
}

# Locks the cluster for a verb about node $1, which has to run.
lock_node() {
    need_node "$@"
    lock_cluster
    runs "$1" || die 1 "node $1 does not run; start it: $ME restart $1"
}

restart() {
    need_node "$@"
    need_bin
    lock_cluster
    ! runs "$1" || end_nodes "$1"
    need_port "$1" "$(port_of "$1")" "$(size)"
    launch "$1"
    wait_launched "$1"
    unlock
    wait_ready "$1" "node $1 is not ready" node_is_ready "$1"
    say "node $1 is ready"
}

logs() {
    need_node "$@"
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
    [ ! -f "$CLUSTER_DIR/$MARK" ] || lock_cluster
    for id in $(ids_all); do
        ! runs "$id" || die 1 "node $id runs; first: $ME stop"
    done
    if [ ! -e "$CLUSTER_DIR" ]; then
        say "nothing to clean in $CLUSTER_DIR"
        return 0
    fi
    [ -f "$CLUSTER_DIR/$MARK" ] || die 2 "$CLUSTER_DIR was not made by this script: it stays"
    need_unheld
    # The mark goes last, so that a deletion cut short can be done again.
    { rm -rf "$CLUSTER_DIR"/node* && rm -rf "$CLUSTER_DIR"; } || die 1 "$CLUSTER_DIR could not be deleted"
    # The target of a symbolic link is the user's own.
    [ ! -L "$GIVEN_DIR" ] || mkdir "$CLUSTER_DIR"
    say "deleted $CLUSTER_DIR"
}

# Refuses words that a verb would not heed: stop 3 must not stop all.
at_most() { [ $(($# - 2)) -le "$1" ] || die 2 "too many words after $2; see: $ME help"; }

is_number "$STOP_SECONDS" || die 2 "STOP_SECONDS=$STOP_SECONDS is no number of seconds"
is_number "$LOCK_SECONDS" || die 2 "LOCK_SECONDS=$LOCK_SECONDS is no number of seconds"
verb=${1-help}
case $verb in
    status | stop | leader | addrs | clean | [0-9]*) at_most 0 "$@" ;;
    start | kill | pause | resume | restart) at_most 1 "$@" ;;
    logs) at_most 2 "$@" ;;
esac
[ $# -eq 0 ] || shift
case $verb in
    start) start "${1:-3}" ;;
    [0-9]*) start "$verb" ;;
    status) status ;;
    stop) stop ;;
    kill) lock_node "$@"; kill_node "$1"; say "killed node $1" ;;
    pause) lock_node "$@"; signal "$1" STOP; say "paused node $1; wake it up: $ME resume $1" ;;
    resume) lock_node "$@"; signal "$1" CONT; say "resumed node $1" ;;
    restart) restart "$@" ;;
    logs) logs "$@" ;;
    leader)
        has_cluster || die 4 "there is no cluster in $CLUSTER_DIR; start one: $ME 5"
        need_cluster; need_bin; ask cluster leader
        ;;
    addrs) need_cluster; addrs ;;
    raftq) need_cluster; need_bin; ask "$@" ;;
    clean) clean ;;
    help | -h | --help) usage ;;
    *) usage >&2; die 2 "no such verb: $verb" ;;
esac

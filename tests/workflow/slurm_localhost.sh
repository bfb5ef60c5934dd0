#!/usr/bin/env bash
# SLURM on one machine, on loopback, to try the cluster's profile with: without systemd, cgroups or an accounting
# database. As root, with slurmctld, slurmd, slurm-client and munge installed.
#
#   slurm_localhost.sh start          write the configuration, start munged, slurmctld, slurmd
#   slurm_localhost.sh status         daemons, partitions, queue
#   slurm_localhost.sh stop-ctld      stop slurmctld alone: an outage of the controller
#   slurm_localhost.sh start-ctld     end the outage
#   slurm_localhost.sh restart-ctld   both, with ${PAUSE:-10} s between
#   slurm_localhost.sh stop           cancel all jobs, stop what `start` started (by PID file only)
#   slurm_localhost.sh clean          stop, then delete the base folder
#   eval "$(slurm_localhost.sh env)"  puts SLURM_CONF and the sacct stand-in in this shell
#
# CPUs, memory and GPUs are declared, not real: CPUS, MEM_MB, GPUS in the environment change them.
# Time limits are enforced, memory limits are not (no cgroups). Partitions: cpu (default), gpu,
# short (1 minute). Everything lives in $SLURM_LOCALHOST_DIR (default /tmp/slurm_localhost) except
# three links in /etc/slurm: the executor plugin's job step drops SLURM_CONF from the environment
# of its inner srun, so the default place has to work. Every command may be repeated.
set -euo pipefail

BASE=${SLURM_LOCALHOST_DIR:-/tmp/slurm_localhost}
CTLD_PORT=${CTLD_PORT:-16817}
SLURMD_PORT=${SLURMD_PORT:-16818}
CPUS=${CPUS:-8}            # declared, not real: SlurmdParameters=config_overrides
MEM_MB=${MEM_MB:-16000}    # declared, not enforced: no cgroups
GPUS=${GPUS:-2}            # fake devices
MIN_JOB_AGE=${MIN_JOB_AGE:-86400}  # s; finished jobs stay visible to squeue: nothing else remembers them
HOST=$(hostname -s)

say() { printf '[slurm_localhost] %s\n' "$*" >&2; }
die() { say "ERROR: $*"; exit 1; }

ETC=/etc/slurm
link_etc() { # only over nothing, or over a link of ours
    local f
    mkdir -p "$ETC"
    for f in slurm.conf gres.conf cgroup.conf; do
        [ -e "$BASE/$f" ] || continue
        if [ -L "$ETC/$f" ] || [ ! -e "$ETC/$f" ]; then ln -sfn "$BASE/$f" "$ETC/$f"
        else die "$ETC/$f exists and is not a link: leaving it alone"; fi
    done
}
unlink_etc() {
    local f
    for f in slurm.conf gres.conf cgroup.conf; do
        [ "$(readlink "$ETC/$f" 2>/dev/null || true)" = "$BASE/$f" ] && rm -f "$ETC/$f"
    done
    return 0
}

alive() { # alive NAME: the PID in NAME.pid runs and is a NAME
    local pid
    [ -s "$BASE/$1.pid" ] || return 1
    pid=$(tr -dc 0-9 <"$BASE/$1.pid")
    [ -n "$pid" ] && [ -r "/proc/$pid/comm" ] && [ "$(cat "/proc/$pid/comm")" = "$1" ]
}

wait_for() { # wait_for SECONDS WHAT COMMAND...
    local n=$(( $1 * 5 )) what=$2; shift 2
    for _ in $(seq "$n"); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
    die "$what did not happen in time; logs: $BASE/log"
}

stop_one() { # by PID file only
    if alive "$1"; then
        local pid; pid=$(tr -dc 0-9 <"$BASE/$1.pid")
        say "stopping $1 (pid $pid)"
        kill -TERM "$pid"
        for _ in $(seq 50); do [ -d "/proc/$pid" ] || break; sleep 0.2; done
        if [ -d "/proc/$pid" ]; then say "$1 ignored TERM; KILL"; kill -KILL "$pid"; fi
    else
        say "$1 not running"
    fi
    rm -f "$BASE/$1.pid"
}

write_conf() {
    mkdir -p "$BASE"/{log,state,spool,munge,dev}
    chmod 755 "$BASE" "$BASE/munge"; chmod 700 "$BASE/state"
    local addr; addr=$(getent ahostsv4 "$HOST" | awk 'NR==1{print $1}')
    case "$addr" in 127.*) ;; *) die "$HOST resolves to '$addr', not loopback; add '127.0.0.1 $HOST' to /etc/hosts" ;; esac

    if [ ! -s "$BASE/munge/munge.key" ]; then
        say "writing a new munge key"
        ( umask 077; head -c 1024 /dev/urandom >"$BASE/munge/munge.key" )
    fi
    # fake GPUs: character devices that behave like /dev/null (falls back to plain files)
    local i
    for i in $(seq 0 $((GPUS - 1))); do
        [ -e "$BASE/dev/fakegpu$i" ] || mknod -m 666 "$BASE/dev/fakegpu$i" c 1 3 2>/dev/null || touch "$BASE/dev/fakegpu$i"
    done
    local gres="" types=""
    if [ "$GPUS" -gt 0 ]; then
        gres="Gres=gpu:fake:$GPUS"; types="GresTypes=gpu"
        printf 'AutoDetect=off\nNodeName=%s Name=gpu Type=fake File=%s/dev/fakegpu[0-%d]\n' "$HOST" "$BASE" $((GPUS - 1)) >"$BASE/gres.conf"
    fi
    cat >"$BASE/slurm.conf" <<CONF
ClusterName=localhost
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$CTLD_PORT
SlurmdPort=$SLURMD_PORT
# bind to the addresses above, not to 0.0.0.0
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$BASE/munge/munge.socket
StateSaveLocation=$BASE/state
SlurmdSpoolDir=$BASE/spool
SlurmctldPidFile=$BASE/slurmctld.pid
SlurmdPidFile=$BASE/slurmd.pid
SlurmctldLogFile=$BASE/log/slurmctld.log
SlurmdLogFile=$BASE/log/slurmd.log
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
SwitchType=switch/none
# no cgroups, no systemd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
# no database: sacct does not work, squeue must remember finished jobs
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$BASE/log/jobcomp.log
MinJobAge=$MIN_JOB_AGE
MaxJobCount=20000
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5
KillWait=5
# a step that ends while the controller is away waits for it; the default minute would take the node away
UnkillableStepTimeout=600
SlurmctldTimeout=30
SlurmdTimeout=60
$types
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEM_MB $gres State=UNKNOWN
PartitionName=cpu Nodes=$HOST Default=YES MaxTime=INFINITE DefaultTime=00:10:00 State=UP
PartitionName=gpu Nodes=$HOST MaxTime=INFINITE DefaultTime=00:10:00 State=UP
PartitionName=short Nodes=$HOST MaxTime=00:01:00 State=UP
CONF
    # read by slurmd only when a cgroup plugin is asked for; here so that nothing is guessed
    printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n' >"$BASE/cgroup.conf"
    link_etc
    export SLURM_CONF="$BASE/slurm.conf"
}

write_sacct() { # answers the plugin's two sacct questions from squeue: there is no database here
    mkdir -p "$BASE/bin"
    cat >"$BASE/bin/sacct" <<'SHIM'
#!/usr/bin/env bash
# stand-in for sacct on a cluster without accounting (slurm_localhost.sh)
name="" format=""
while [ $# -gt 0 ]; do
    case "$1" in
        --name) name=$2; shift ;;
        --name=*) name=${1#*=} ;;
        --format=*) format=${1#*=} ;;
    esac
    shift
done
case "$format" in
    JobIdRaw,State) exec squeue --noheader --states=all --format='%i|%T' ${name:+--name "$name"} ;;
    *) exit 0 ;;
esac
SHIM
    chmod +x "$BASE/bin/sacct"
}

start_munged() {
    alive munged && { say "munged runs"; return; }
    rm -f "$BASE/munge/munge.socket" "$BASE/munge/munge.socket.lock"
    say "starting munged"
    munged --force --key-file="$BASE/munge/munge.key" --socket="$BASE/munge/munge.socket" \
        --pid-file="$BASE/munged.pid" --log-file="$BASE/log/munged.log" --seed-file="$BASE/munge/seed" 2>>"$BASE/log/munged.err"
    wait_for 10 "munge socket" test -S "$BASE/munge/munge.socket"
}

start_ctld() {
    alive slurmctld && { say "slurmctld runs"; return; }
    say "starting slurmctld on 127.0.0.1:$CTLD_PORT"
    slurmctld -f "$BASE/slurm.conf"
    wait_for 20 "slurmctld answering" scontrol ping
}

start_slurmd() {
    alive slurmd && { say "slurmd runs"; return; }
    say "starting slurmd on 127.0.0.1:$SLURMD_PORT ($CPUS CPUs, $MEM_MB MB, $GPUS fake GPUs)"
    slurmd -f "$BASE/slurm.conf"
    wait_for 20 "node idle" bash -c "sinfo -h -o %T | grep -qE 'idle|mixed|allocated'"
}

cmd=${1:-status}
export SLURM_CONF="$BASE/slurm.conf"
case "$cmd" in
    start)
        command -v slurmctld >/dev/null || die "slurmctld is not installed"
        [ "$(id -u)" = 0 ] || die "needs root"
        write_conf; write_sacct; start_munged; start_ctld; start_slurmd
        say "ready: eval \"\$($0 env)\""; sinfo >&2 ;;
    stop-ctld) stop_one slurmctld ;;
    start-ctld) start_ctld ;;
    restart-ctld)
        stop_one slurmctld; sleep "${PAUSE:-10}"; start_ctld ;;
    stop)
        # cancel jobs first, so that no job step outlives the daemons
        if alive slurmctld; then scancel --user=root 2>/dev/null || true; sleep 1; fi
        stop_one slurmd; stop_one slurmctld; stop_one munged; unlink_etc ;;
    clean) bash "$0" stop; rm -rf "$BASE" ;;
    env) echo "export SLURM_CONF=$BASE/slurm.conf PATH=$BASE/bin:\$PATH" ;;
    status)
        for d in munged slurmctld slurmd; do alive $d && echo "$d: pid $(tr -dc 0-9 <"$BASE/$d.pid")" || echo "$d: not running"; done
        alive slurmctld && { sinfo -o "%P %T %c %m %G"; squeue; } || true ;;
    *) die "unknown command $cmd" ;;
esac

"""The files of the test cluster: two nodes of two fake GPUs on one machine, loopback only.

Every daemon binds to 127.0.0.1, and everything lies in one folder. What real clusters have and this
one has not: cgroups (memory is watched by sampling instead), several machines, and GPUs.
"""

from pathlib import Path

NODES = ("n1", "n2")
GPUS = 2
CPUS, MEMORY_MB = 8, 400_000
"""What a node claims to have, whatever the machine has."""

CONTROLLER_PORT, ACCOUNTING_PORT, DATABASE_PORT, FIRST_NODE_PORT = 16817, 16819, 13307, 16831

SLURM = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
# Daemons bind to what the machine's own name stands for; host.py makes that 127.0.0.1.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller_port}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
# No cgroups, so that it starts in any container.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# Memory is sampled each second, and a job that has more than it asked for is ended.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,NoShared
TaskProlog={folder}/record_start
TaskEpilog={folder}/record_end
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=200000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
# A dead node is seen after 10 to 20 s, a job over its time ends within seconds.
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
OverTimeLimit=0
KillWait=2
# squeue shows ended jobs this long; SLURM's own 300 s are less than the tests take.
MinJobAge=7200
JobRequeue=1
GresTypes=gpu
"""

RECORD = """\
#!/bin/sh
# What a step was granted, as its processes see it: time, node, job.step, GPUs.
step=$SLURM_JOB_ID.$SLURM_STEP_ID
echo "$(date +%s.%N) {what} $SLURMD_NODENAME $step gpus=$CUDA_VISIBLE_DEVICES" >> {folder}/log/steps
"""

PARTITIONS = """\
PartitionName=gpu Nodes=ALL Default=YES MaxTime=7-0 DefMemPerCPU=500 State=UP
PartitionName=cpu Nodes=ALL MaxTime=7-0 DefMemPerCPU=500 State=UP
"""

ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting_port}
CommunicationParameters=NoInAddrAny
SlurmUser=root
DebugLevel=info
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def write_files(folder: Path, *, accounting: bool) -> list[Path]:
    """Write the configuration and fake devices; return the files that SLURM looks for in /etc."""
    for name in ("state", "log", "run", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = {"slurm.conf": _slurm(folder, accounting), "gres.conf": _devices(folder)}
    if accounting:
        files["slurmdbd.conf"] = _filled(ACCOUNTING, folder)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)
    for what in ("start", "end"):
        (folder / f"record_{what}").write_text(RECORD.format(folder=folder, what=what))
        (folder / f"record_{what}").chmod(0o755)
    return [folder / name for name in files]


def _slurm(folder: Path, accounting: bool) -> str:
    storage = "AccountingStorageType=accounting_storage/none\n"
    if accounting:
        storage = (
            "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={ACCOUNTING_PORT}\nAccountingStorageTRES=gres/gpu\n"
            f"AccountingStoragePass={folder}/munge/socket\n"
        )
    nodes = "".join(
        f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={FIRST_NODE_PORT + number}"
        f" CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:h100:{GPUS} Weight={number + 1}\n"
        for number, node in enumerate(NODES)
    )
    return _filled(SLURM, folder) + storage + nodes + PARTITIONS


def _devices(folder: Path) -> str:
    """Make the device files. SLURM refuses plain files, and takes links to /dev/null."""
    lines = ""
    for node in NODES:
        (folder / "gpu" / node).mkdir(parents=True, exist_ok=True)
        for number in range(GPUS):
            device = folder / "gpu" / node / f"nvidia{number}"
            if not device.is_symlink():
                device.symlink_to("/dev/null")
        files = f"{folder}/gpu/{node}/nvidia[0-{GPUS - 1}]"
        lines += f"NodeName={node} Name=gpu Type=h100 File={files}\n"
    return lines


def _filled(text: str, folder: Path) -> str:
    return text.format(
        folder=folder,
        controller_port=CONTROLLER_PORT,
        accounting_port=ACCOUNTING_PORT,
        database_port=DATABASE_PORT,
    )

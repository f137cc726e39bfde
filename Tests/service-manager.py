"""Plays systemd's part towards one daemon: keeps the descriptors that it stores (sd_pid_notify_with_fds(3)) and gives them to the
next one (sd_listen_fds(3)). SIGHUP restarts the daemon, SIGUSR1 kills and restarts it, SIGTERM ends both."""
import os, select, signal, socket, sys

notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(f"\0knetd-test-{os.getpid()}")
notify.setblocking(False)
stored, wanted, ending = [], None, False


def start():
    process = os.fork()
    if process:
        return process
    copies = [(name, os.dup2(number, 1000 + index)) for index, (name, number) in enumerate(stored)]
    for index, (_, number) in enumerate(copies):
        os.dup2(number, 3 + index, inheritable=True)
    os.closerange(3 + len(copies), 2000)
    environment = dict(
        os.environ, NOTIFY_SOCKET=f"@knetd-test-{os.getppid()}", LISTEN_PID=str(os.getpid()),
        LISTEN_FDS=str(len(copies)), LISTEN_FDNAMES=":".join(name for name, _ in copies))
    os.execve(sys.argv[1], sys.argv[1:], environment)


def ask(number, _):
    global wanted, ending
    wanted = signal.SIGKILL if number == signal.SIGUSR1 else signal.SIGTERM
    ending = number == signal.SIGTERM


for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, ask)


def take():
    """Takes one message, if there is one."""
    global stored
    try:
        text, descriptors, _, _ = socket.recv_fds(notify, 4096, 4)
    except BlockingIOError:
        return False
    lines = dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)
    if lines.get("FDSTORE") == "1":
        stored = [kept for kept in stored if kept[0] != lines["FDNAME"]] + [(lines["FDNAME"], descriptors[0])]
    if lines.get("FDSTOREREMOVE") == "1":
        for kept in [kept for kept in stored if kept[0] == lines["FDNAME"]]:
            os.close(kept[1])
            stored.remove(kept)
    return True


while not ending:
    daemon, told = start(), False
    end = os.pidfd_open(daemon)
    while True:
        # A daemon that could not send what it has to say would not end.
        ready, _, _ = select.select([notify, end] if told else [notify], [], [], 0.05)
        while take():
            pass
        if end in ready:
            break
        if wanted:
            os.kill(daemon, wanted)
            wanted, told = None, True
    os.waitpid(daemon, 0)
    os.close(end)

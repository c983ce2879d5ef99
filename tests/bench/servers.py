"""Servers and load of the comparison: processes that end with the row that started them, RaftMQ's nodes, Apache's servers, and
what they used."""
import bisect
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import remoting

ROOT = pathlib.Path(__file__).resolve().parents[2]
RAFTMQ = ROOT / 'target/release/raftmq'
APACHE = pathlib.Path(__file__).resolve().parent / 'apache.py'
JARS = ROOT / 'target/bench/apache-5.3.3'
CACHES = pathlib.Path('/proc/sys/vm/drop_caches')

ONE_NODE = ['one-node.toml']
THREE_NODES = [f'three-nodes/node-{n}.toml' for n in (1, 2, 3)]
THREE_GROUPS = [f'three-groups/node-{n}.toml' for n in (1, 2, 3)]


class Failed(Exception):
    """A measurement came to nothing; the text says why."""


class Bench:
    """What all rows share: options, the directory of everything, processes, and the time that the row has left."""

    def __init__(self, options, report, work):
        self.options, self.report, self.work = options, report, work
        self.deadline = time.monotonic()
        self.processes = []
        self.classpath = None
        self.kept = None
        # Called before each measurement; what it takes is not taken from the row's time.
        self.before = None

    def left(self, most=float('inf')):
        """Seconds to wait for something, within the row's budget."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Failed('the row has used up its time')
        return min(left, most)

    def start(self, command, **how):
        """Each process has a session of its own, so that Ctrl-C reaches only this program, which ends them."""
        process = subprocess.Popen([str(c) for c in command], start_new_session=True, **how)
        self.processes.append(process)
        return process

    def end(self, process):
        """kill -9, unless it has ended."""
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        if process in self.processes:
            self.processes.remove(process)

    def end_all(self):
        for process in reversed(list(self.processes)):
            self.end(process)

    def run(self, command, most=float('inf')):
        """Standard output of a program that has to succeed."""
        process = self.start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        name = ' '.join(str(c) for c in command[:3])
        try:
            output, errors = process.communicate(timeout=self.left(most))
        except subprocess.TimeoutExpired:
            raise Failed(f'{name} took too long') from None
        finally:
            self.end(process)
        if process.returncode:
            raise Failed(f'{name}: {errors.strip()[-400:]}')
        return output

    def until(self, what, seconds, probe, pause=0.05):
        """The first answer of `probe` that holds; errors of sockets and refusals count as not yet."""
        end = time.monotonic() + self.left(seconds)
        why = ''
        while time.monotonic() < end:
            try:
                answer = probe()
                if answer:
                    return answer
            except (OSError, ValueError, KeyError, remoting.Refused) as error:
                why = f' ({error})'
            time.sleep(pause)
        self.left()
        raise Failed(f'{what}: not within {seconds} s{why}')

    def attempt(self, name, turn, measure):
        """One measurement. Where it fails the others go on; when the row's time is up none begins."""
        if time.monotonic() >= self.deadline:
            return
        try:
            if self.before:
                began = time.monotonic()
                self.before()
                self.deadline += time.monotonic() - began
            self.report.note(name, turn, measure())
        except Exception as error:  # whatever it is, it is noted and the rest goes on
            self.report.fail(name, turn, error)

    def need_room(self, gib):
        free = shutil.disk_usage(self.work).free / (1 << 30)
        if free < gib + 3:
            raise Failed(f'needs {gib:.0f} GiB of disk and 3 to spare, {self.work} has {free:.0f}; '
                         'see --gib, --retained-nodes and --work')


def check_ports(bench, ports):
    """Nobody else may listen there: figures would be theirs."""
    for port in sorted(set(ports)):
        def is_free(port=port):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(('127.0.0.1', port))
                return True
        bench.until(f'port {port} is free (see --port-offset, --apache-port)', 5, is_free)


def memory_mib(pid, kind):
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    return int(re.search(rf'{kind}:\s+(\d+)', status).group(1)) // 1024


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf('SC_CLK_TCK')


class Cpu:
    """CPU seconds of processes, read ten times a second, so that the measured window can be cut out when it is known."""

    def __init__(self, pids):
        self.pids, self.times, self.values = pids, [], []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.follow, daemon=True)

    def follow(self):
        with contextlib.suppress(OSError):
            while True:
                self.values.append(cpu_seconds(self.pids))
                self.times.append(time.time())
                if self.stop.wait(0.1):
                    return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def at(self, moment):
        place = bisect.bisect(self.times, moment)
        if place == 0 or place == len(self.times):
            return self.values[min(place, len(self.values) - 1)]
        before, after = self.times[place - 1], self.times[place]
        share = (moment - before) / (after - before)
        return self.values[place - 1] + share * (self.values[place] - self.values[place - 1])

    def between(self, begin, end):
        """Wall-clock times, seconds since 1970."""
        return self.at(end) - self.at(begin)


class Servers:
    """What RaftMQ's nodes and Apache's servers have in common: a nameserver, and processes whose CPU counts."""

    def __init__(self, bench):
        self.bench = bench
        self.queues = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def memory(self):
        return dict(rss_mib=[memory_mib(pid, 'VmRSS') for pid in self.pids()],
                    anonymous_mib=[memory_mib(pid, 'RssAnon') for pid in self.pids()])

    def topic(self, *names, queues=8):
        """Makes topics in every broker, and waits until clients can know them."""
        masters = remoting.masters(self.nameserver)
        for address in masters.values():
            self.bench.until('topics are made', 60, lambda: remoting.create_topics(address, names, queues) is None)
        for name in (names[0], names[-1]):
            self.bench.until(f'the nameserver knows topic {name}', 30,
                             lambda: remoting.write_queues(self.nameserver, name) == queues * len(masters))
        self.queues.update(dict.fromkeys(names, queues))

    def master(self):
        """Address of the first broker's master."""
        return min(remoting.masters(self.nameserver).items())[1]

    def generator(self, *arguments, most=None):
        """`raftmq bench`: what it printed."""
        return json.loads(self.bench.run(self.generator_command(*arguments), most or self.bench.options.seconds * 3 + 90))

    def generator_command(self, *arguments):
        pids = ','.join(str(pid) for pid in self.pids())
        return [RAFTMQ, 'bench', *arguments, '-n', self.nameserver, '--json', '--pids', pids]

    def start_generator(self, *arguments):
        log = open(self.bench.work / 'generator.log', 'w')
        return self.bench.start(self.generator_command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                text=True)

    def fill(self, topic, is_enough, most, size=1024, in_flight=1024, more=()):
        """Sends to a topic, by the generator with `more` arguments, until `is_enough(address of the master)`."""
        if topic not in self.queues:
            self.topic(topic)
        master = self.master()
        if is_enough(master):
            return
        load = self.start_generator('produce', '-t', topic, '--seconds', 86400, '--warm-up', 0, '--size', size, '--in-flight',
                                    in_flight, *more)
        try:
            def reached():
                if load.poll() is not None:
                    log = (self.bench.work / 'generator.log').read_text()
                    raise Failed(f'the generator has ended: {log.strip()[-400:]}')
                return is_enough(master)
            self.bench.until(f'{topic} is filled', most, reached, pause=0.25)
        finally:
            self.bench.end(load)

    def fill_messages(self, topic, count, in_flight=1024, more=()):
        """At least so many: how many there are."""
        def there(master):
            return remoting.stored(master, topic, self.queues[topic])
        self.fill(topic, lambda master: there(master) >= count, 300, in_flight=in_flight, more=more)
        return there(self.master())

    def java(self, scenario, event, *arguments):
        """A scenario of tests/java: the last event of that name, when it came, and a recording of the servers' CPU."""
        bench = self.bench
        if not bench.classpath:
            raise Failed('the Java client is not there, see above')
        command = ['java', '-Xmx1g', f'-Duser.home={bench.work}/home', '-cp', bench.classpath, 'raftmq.Scenario', scenario,
                   *arguments, '--namesrv', self.nameserver]
        log = bench.work / f'{scenario}.log'
        found = None
        with open(log, 'w') as errors, Cpu(self.pids()) as cpu:
            # Scenarios end when their standard input closes.
            client = bench.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
            watch = threading.Timer(bench.left(), client.kill)
            watch.start()
            try:
                for line in client.stdout:
                    if line.startswith('{') and json.loads(line).get('event') == event:
                        found = json.loads(line) | {'at': time.time()}
            finally:
                watch.cancel()
                bench.end(client)
        bench.left()
        if not found:
            raise Failed(f'java {scenario} has no result: {log.read_text().strip()[-400:]}')
        return found, cpu

    def java_throughput(self, topic='jt', threads=64, seconds=None, warm_up=None, transactions=False):
        """Synchronous sends of the stock producer; as transactions, until the last is committed too."""
        options = self.bench.options
        if topic not in self.queues:
            self.topic(topic)
        found, cpu = self.java('throughput', 'throughput', '--topic', topic, '--threads', threads, '--size', 1024, '--seconds',
                               seconds or options.seconds, '--warm-up', options.java_warm_up if warm_up is None else warm_up, *(['--transactions'] if transactions else []))
        used = cpu.between(found['at'] - found['seconds'], found['at'])
        figures = {name: round(found[name], 2) for name in ('per_s', 'mean_ms', 'p50_ms', 'p99_ms', 'failed')}
        if found.get('error'):
            figures['error_of_a_send'] = found['error'][:200]
        if transactions:
            # Clients do not wait for a commit: what was answered is to be there soon after.
            self.bench.until(f'{found["committed"]} transactions are committed', 10,
                             lambda: remoting.stored(self.master(), topic, self.queues[topic]) >= found['committed'])
        return figures | {'cpu_us': round(used * 1e6 / max(found['sent'], 1), 1)} | self.memory()

    def java_consumed(self, topic, group, until, *more):
        """What the stock push consumer takes of a backlog. CPU between its first and its last message, by each of `until`."""
        found, cpu = self.java('consume', 'done', '--topic', topic, '--group', group, '--from', 'FIRST', '--quiet', '--until', until,
                               *more)
        used = cpu.between(found['first'] / 1e9, found['last'] / 1e9)
        return dict(per_s=round(found['per_s']), count=found['count'], cpu_us=round(used * 1e6 / found['count'], 1))


class Nodes(Servers):
    """RaftMQ from the files in conf/, with data of their own and ports moved by --port-offset. `limits`: those of [limits] that
    are not as they come; `cpus`: the only cores they run on, as for taskset."""

    def __init__(self, bench, files=THREE_NODES, name='nodes', limits=None, cpus=None):
        super().__init__(bench)
        self.pinned = ['taskset', '-c', cpus] if cpus else []
        offset = bench.options.port_offset
        self.dir = bench.work / name
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir()
        self.configs, self.running, self.ports = [], [None] * len(files), set()
        self.addresses = []
        self.groups = set()
        for number, file in enumerate(files):
            text = (ROOT / 'conf' / file).read_text()
            text = re.sub(r'(?m)^data = ".*"', f'data = "{self.dir}/{number}"', text)
            text = re.sub(r'127\.0\.0\.1:(\d+)', lambda m: f'127.0.0.1:{int(m.group(1)) + offset}', text)
            config = self.dir / f'{number}.toml'
            if limits:
                # Tables come after what belongs to none, so that one more may stand at the end.
                text += '\n[limits]\n' + ''.join(f'{key} = {value}\n' for key, value in limits.items())
            config.write_text(text)
            self.configs.append(config)
            listens = re.findall(r'(?m)^listen = "127\.0\.0\.1:(\d+)"', text.split('[[group]]', 1)[1])
            self.addresses.append(f'127.0.0.1:{listens[0]}')
            self.groups.update(re.findall(r'(?m)^name = "(.*)"', text))
            said = '\n'.join(line for line in text.splitlines() if not line.startswith('#'))
            self.ports.update(int(port) for port in re.findall(r'127\.0\.0\.1:(\d+)', said))
            self.ports.update(int(port) - 2 for port in listens)
        self.nameserver = f'127.0.0.1:{9876 + offset}'
        try:
            self.start()
        except Failed as error:
            said = (self.dir / '0.log').read_text().strip()[-400:] if (self.dir / '0.log').exists() else ''
            self.close()
            raise Failed(f'{error}; node 1: {said}') from None
        except BaseException:
            self.close()
            raise

    def data(self, number):
        return self.dir / str(number)

    def start(self):
        check_ports(self.bench, self.ports)
        for number in range(len(self.configs)):
            self.start_node(number)
        self.settle()

    def start_node(self, number):
        with open(self.dir / f'{number}.log', 'a') as log:
            self.running[number] = self.bench.start([*self.pinned, RAFTMQ, 'server', '--config', self.configs[number]], stdout=log,
                                                     stderr=log)

    def settle(self, seconds=30):
        """Until every group takes messages, and the preferred node leads the first one."""
        self.bench.until('the nodes take a message', seconds, lambda: remoting.send(self.addresses[0], 'warm') is None)
        self.bench.until('all groups have a master', seconds, lambda: set(remoting.masters(self.nameserver)) == self.groups)
        self.bench.until('node 1 leads', seconds, lambda: remoting.group_status(self.addresses[0])['state'] == 'leader')

    def pids(self):
        return [process.pid for process in self.running if process]

    def kill_node(self, number):
        self.bench.end(self.running[number])
        self.running[number] = None

    def kill(self):
        """kill -9 of all at once."""
        for process in self.running:
            if process and process.poll() is None:
                process.kill()
        for number, process in enumerate(self.running):
            if process:
                self.kill_node(number)

    def stop(self):
        """A planned stop; what was written stays."""
        for process in self.running:
            if process and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 20
        for process in self.running:
            if process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, end - time.monotonic()))
        self.kill()

    def close(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def disk_mib(self, number=0):
        """Of one node: segments, and all that comes beside the messages. What is allocated ahead counts as segments."""
        segments = beside = 0
        for path in self.data(number).rglob('*'):
            with contextlib.suppress(FileNotFoundError):
                allocated = path.stat().st_blocks * 512
                is_segment = path.parent.name == 'log' and re.fullmatch(r'\d{20}|next-\d+', path.name)
                segments, beside = (segments + allocated, beside) if is_segment else (segments, beside + allocated)
        return segments >> 20, beside >> 20


class Kept(Nodes):
    """The nodes that hold much: they are filled once and serve several rows, which start and stop them."""

    def __init__(self, bench):
        super().__init__(bench, ONE_NODE if bench.options.retained_nodes == 1 else THREE_NODES, name='kept')

    @contextlib.contextmanager
    def in_use(self, gib):
        """Running, and with so much in topic `fill`."""
        try:
            if not self.pids():
                self.start()
            self.fill('fill', lambda master: remoting.log_end(master) >= gib * (1 << 30), 300 + 60 * gib,
                      size=self.bench.options.size)
            yield self
        finally:
            self.stop()


def kept(bench, gib):
    """The nodes of the rows that need much retained; made by the first of these rows."""
    if not bench.kept:
        bench.need_room(bench.options.retained_nodes * (gib * 1.05 + 7))
        bench.kept = Kept(bench)
    return bench.kept.in_use(gib)


class Apache(Servers):
    """Apache RocketMQ, started by apache.py beside this file, which ends its servers when its standard input closes."""

    def __init__(self, bench, mode, extra=''):
        super().__init__(bench)
        if not bench.classpath:
            raise Failed('the jars of Apache RocketMQ are not there, see above')
        port = bench.options.apache_port
        check_ports(bench, [port, *(port + n for n in (35, 36, 45, 46, 55, 70, 71, 72))])
        self.dir = bench.work / 'apache'
        command = [sys.executable, APACHE, '--dir', self.dir, '--lib', JARS, '--base-port', port, '--extra', extra, mode]
        self.log = bench.work / 'apache.log'
        with open(self.log, 'w') as log:
            self.launcher = bench.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.brokers = []
        try:
            watch = threading.Timer(bench.left(180), self.launcher.terminate)
            watch.start()
            line = self.launcher.stdout.readline()
            watch.cancel()
            told = re.search(r'NAMESRV_ADDR=([\d.:]+),.* brokers ([\d,]+)', line)
            if not told:
                raise Failed(f'Apache {mode} has not started: {self.log.read_text().strip()[-400:]}')
            self.nameserver = told.group(1)
            self.brokers = [int(pid) for pid in told.group(2).split(',')]
            bench.until(f'Apache {mode} has a master', 90, lambda: remoting.masters(self.nameserver), pause=0.5)
            bench.until(f'Apache {mode} takes a message', 90, lambda: remoting.send(self.master(), 'warm', 15.0) is None, pause=0.5)
        except BaseException:
            self.close()
            raise

    def pids(self):
        return self.brokers

    def close(self):
        with contextlib.suppress(OSError):
            self.launcher.stdin.close()
        for stop in (lambda: None, self.launcher.terminate):
            stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.launcher.wait(20)
                break
        else:
            # The launcher hangs: its brokers are ours all the same.
            for pid in self.brokers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.bench.end(self.launcher)
        if not self.bench.options.keep:
            shutil.rmtree(self.dir / 'data', ignore_errors=True)


def java_kit(bench):
    """Apache's jars, kept in target/ (about 150 MB from Maven Central the first time), and tests/java with tests/java5 compiled against
    them."""
    bench.deadline = time.monotonic() + 900
    bench.run([sys.executable, APACHE, '--dir', bench.work / 'apache', '--lib', JARS, 'fetch'])
    classes = bench.work / 'classes'
    # What only 5.x clients can do lies apart.
    sources = sorted(file for folder in ('java', 'java5') for file in (ROOT / 'tests' / folder / 'raftmq').glob('*.java'))
    bench.run(['javac', '-nowarn', '-encoding', 'UTF-8', '-cp', f'{JARS}/*', '-d', classes, *sources])
    bench.classpath = f'{classes}:{JARS}/*'


def can_drop_caches():
    return os.geteuid() == 0 and os.access(CACHES, os.W_OK)


def drop_caches():
    """Nothing that is on disk stays in memory; the binary goes too, as after a power cut."""
    os.sync()
    try:
        CACHES.write_text('3\n')
    except OSError as error:
        raise Failed(f'the page cache cannot be dropped: {error}') from None

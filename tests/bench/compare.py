#!/usr/bin/env python3
"""The figures of docs/benchmarks.md: RaftMQ, and Apache RocketMQ beside it, in one run on this machine.

usage: compare.py [--rounds N] [--seconds S] [--only WORD,WORD] [--work DIR]
Needs target/release/raftmq (cargo build --release), java 17, javac and mvn. Three RaftMQ nodes are started from
conf/three-nodes; Apache by apache.py beside this file. Every server starts fresh for every measurement.
Steps: generator java apache dledger replication end latency consume start idle backlog. Prints one line per measurement
and a summary of medians; everything goes to DIR/results.json too.

The page cache is filled and given back once before anything is measured: a virtual machine's memory is slow when it is
touched for the first time, and a log that runs at 100 MB/s touches much of it.
"""
import argparse, json, os, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RAFTMQ = ROOT / 'target/release/raftmq'
APACHE = pathlib.Path(__file__).resolve().parent / 'apache.py'
NAMESRV, APACHE_NAMESRV = '127.0.0.1:9876', '127.0.0.1:29876'

options = argparse.ArgumentParser(usage=__doc__)
options.add_argument('--rounds', type=int, default=2)
options.add_argument('--seconds', type=int, default=10)
options.add_argument('--only', default='')
options.add_argument('--work', default=tempfile.gettempdir() + '/raftmq-compare')
options = options.parse_args()
WORK = pathlib.Path(options.work)
WORK.mkdir(parents=True, exist_ok=True)
results = {}


def wanted(step):
    return not options.only or step in options.only.split(',')


def note(name, **figures):
    results.setdefault(name, []).append(figures)
    print(f'{name}: ' + ', '.join(f'{k} {v}' for k, v in figures.items()), flush=True)
    (WORK / 'results.json').write_text(json.dumps(results, indent=1))


def touch_memory():
    """Writes two thirds of the memory into the page cache and drops it."""
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') * 2 // 3
    path = WORK / 'memory'
    chunk = bytes(1 << 20)
    with open(path, 'wb') as file:
        for _ in range(pages >> 20):
            file.write(chunk)
    path.unlink()


class Nodes:
    """Three nodes, one group; or one node."""

    def __init__(self, files=('three-nodes/node-1.toml', 'three-nodes/node-2.toml', 'three-nodes/node-3.toml')):
        self.dir = WORK / 'nodes'
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir()
        self.processes = []
        for number, file in enumerate(files):
            text = (ROOT / 'conf' / file).read_text()
            config = self.dir / f'{number}.toml'
            config.write_text(re.sub(r'(?m)^data = ".*"', f'data = "{self.dir}/{number}"', text))
            log = open(self.dir / f'{number}.log', 'w')
            self.processes.append(subprocess.Popen([RAFTMQ, 'server', '--config', config], stdout=log, stderr=log))
        self.send_until_accepted()

    def send_until_accepted(self):
        for _ in range(200):
            sent = subprocess.run([RAFTMQ, 'produce', '-n', NAMESRV, '--topic', 'warm', '--count', '1'],
                                  capture_output=True)
            if sent.returncode == 0:
                return
            time.sleep(0.05)
        sys.exit(f'the nodes do not take a message; see {self.dir}')

    def pids(self):
        return ','.join(str(p.pid) for p in self.processes)

    def used(self):
        """CPU seconds of all nodes, anonymous MiB of each."""
        cpu, memory = 0.0, []
        for process in self.processes:
            stat = pathlib.Path(f'/proc/{process.pid}/stat').read_text().rsplit(')', 1)[1].split()
            cpu += (int(stat[11]) + int(stat[12])) / os.sysconf('SC_CLK_TCK')
            status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
            memory.append(int(re.search(r'RssAnon:\s+(\d+)', status).group(1)) // 1024)
        return cpu, memory

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def bench(nodes, *arguments):
    command = [RAFTMQ, 'bench', *arguments, '-n', NAMESRV, '--json', '--pids', nodes.pids()]
    output = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if output.returncode:
        sys.exit(f'{command}: {output.stderr}')
    return json.loads(output.stdout)


def figures(d):
    latency = d['latency_ms']
    return dict(per_s=int(d['messages_per_second']), cpu_us=round(d['server_cpu_us_per_message'], 1),
                p50_ms=latency['p50'], p99_ms=latency['p99'], failed=d['failed'], anonymous_mib=d['server_anonymous_mib'])


def java_classes():
    """tests/java compiled against the client that came with Apache's servers."""
    lib = WORK / 'apache/lib'
    if not lib.exists():
        subprocess.run([sys.executable, APACHE, '--dir', WORK / 'apache', 'async', '--', 'true'], check=True,
                       stdout=subprocess.DEVNULL)
    classes = WORK / 'classes'
    sources = [str(p) for p in (ROOT / 'tests/java/raftmq').glob('*.java')]
    subprocess.run(['javac', '-nowarn', '-cp', f'{lib}/*', '-d', classes, *sources], check=True)
    return f'{classes}:{lib}/*'


def java(namesrv, *arguments):
    return ['java', '-Xmx1g', f'-Duser.home={WORK}/home', '-cp', CLASSES, 'raftmq.Scenario', *arguments, '--namesrv', namesrv]


def events(output, name):
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{')]
    return [line for line in lines if line.get('event') == name]


def java_throughput(namesrv):
    return java(namesrv, 'throughput', '--topic', 'jt', '--threads', '64', '--size', '1024', '--seconds', str(options.seconds))


def on_nodes(name, command, event, nodes):
    before, _ = nodes.used()
    output = subprocess.run(command, capture_output=True, text=True).stdout
    cpu, memory = nodes.used()
    found = events(output, event)[-1]
    keep = {k: round(found[k], 2) for k in ('per_s', 'mean_ms', 'p50_ms', 'p99_ms', 'failed') if k in found}
    if found.get('sent'):
        # The warm-up's messages cost CPU and are not counted, so this is a little too high.
        keep['cpu_us'] = round((cpu - before) * 1e6 / found['sent'], 1)
    note(name, **keep, anonymous_mib=memory)


def on_apache(name, mode, command, event, extra=()):
    output = subprocess.run([sys.executable, APACHE, '--dir', WORK / 'apache', *extra, mode, '--', *command],
                            capture_output=True, text=True).stdout
    found = events(output, event)
    if not found:
        return note(name, error=output[-300:])
    found = found[-1]
    keep = {k: round(found[k], 2) for k in ('per_s', 'mean_ms', 'p50_ms', 'p99_ms', 'failed') if k in found}
    servers = re.search(r'servers: cpu_s \[(.*)\] rss_mb \[(.*)\]', output)
    if servers and found.get('sent'):
        cpu = sum(float(x) for x in servers.group(1).split(','))
        keep['cpu_us'] = round(cpu * 1e6 / found['sent'], 1)
        keep['rss_mb'] = servers.group(2)
    note(name, **keep)


touch_memory()
if any(wanted(step) for step in ('java', 'apache', 'dledger', 'replication', 'latency')):
    CLASSES = java_classes()
S = options.seconds
for turn in range(options.rounds):
    if wanted('generator'):
        for in_flight, clients in ((1024, 2), (64, 2), (1, 1)):
            with Nodes() as nodes:
                d = bench(nodes, 'produce', '-t', 'g', '--seconds', S, '--in-flight', in_flight, '--clients', clients)
                note(f'generator, {in_flight} in flight', **figures(d))
    if wanted('java'):
        with Nodes() as nodes:
            on_nodes('java 64 threads, RaftMQ', java_throughput(NAMESRV), 'throughput', nodes)
    if wanted('apache'):
        for mode in ('async', 'sync', 'double'):
            extra = ['--extra', 'flushDiskType=SYNC_FLUSH'] if mode == 'double' else []
            on_apache(f'java 64 threads, Apache {mode}', mode, java_throughput(APACHE_NAMESRV), 'throughput', extra)
    if wanted('dledger') and turn == 0:
        on_apache('java 64 threads, Apache dledger', 'dledger', java_throughput(APACHE_NAMESRV), 'throughput')
        on_apache('java 64 threads, Apache dledger, batch push', 'dledger', java_throughput(APACHE_NAMESRV), 'throughput',
                  ['--extra', 'isEnableBatchPush=true'])
    if wanted('replication'):
        with Nodes(['one-node.toml']) as nodes:
            on_nodes('java 64 threads, one RaftMQ node', java_throughput(NAMESRV), 'throughput', nodes)
        with Nodes(['one-node.toml']) as nodes:
            d = bench(nodes, 'produce', '-t', 'g', '--seconds', S, '--in-flight', 1, '--clients', 1)
            note('generator, one node, 1 in flight', **figures(d))
    if wanted('end'):
        with Nodes() as nodes:
            d = bench(nodes, 'end-to-end', '-t', 'e', '--seconds', S, '--rate', 1000)
            note('end to end at 1,000/s, own client', **figures(d))
    if wanted('latency'):
        command = ['latency', '--topic', 'l', '--count', str(1000 * S), '--rate', '1000']
        with Nodes() as nodes:
            output = subprocess.run(java(NAMESRV, *command), capture_output=True, text=True).stdout
            note('end to end at 1,000/s, java, RaftMQ', **{k: v for k, v in events(output, 'latency')[-1].items() if k != 'event'})
        output = subprocess.run([sys.executable, APACHE, '--dir', WORK / 'apache', 'double', '--', *java(APACHE_NAMESRV, *command)],
                                capture_output=True, text=True).stdout
        note('end to end at 1,000/s, java, Apache double', **{k: v for k, v in events(output, 'latency')[-1].items() if k != 'event'})
    if wanted('consume'):
        with Nodes() as nodes:
            bench(nodes, 'produce', '-t', 'c', '--seconds', 8, '--in-flight', 1024)
            d = bench(nodes, 'consume', '-t', 'c', '--seconds', 3, '--warm-up', 0)
            note('consume, one consumer', **figures(d))
    if wanted('start'):
        data = WORK / 'dev'
        shutil.rmtree(data, ignore_errors=True)
        start = time.monotonic()
        dev = subprocess.Popen([RAFTMQ, 'dev', '--data', data], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in dev.stdout:
            if 'produce' in line:
                break
        ready = time.monotonic() - start
        sent = subprocess.run([RAFTMQ, 'produce', '-n', NAMESRV, '--topic', 'first', '--count', '1'], capture_output=True)
        note('dev, start to ready and to a first send by another process', ready_ms=round(ready * 1000),
             sent_ms=round((time.monotonic() - start) * 1000), accepted=sent.returncode == 0)
        dev.send_signal(signal.SIGINT)
        dev.wait()
    if wanted('idle'):
        with Nodes() as nodes:
            time.sleep(2)
            before, _ = nodes.used()
            time.sleep(S)
            cpu, memory = nodes.used()
            note('idle', core_percent_per_node=round((cpu - before) / S / 3 * 100, 2), anonymous_mib=memory)

print('\nmedians')
for name, rows in results.items():
    median = {k: statistics.median(row[k] for row in rows) for k in rows[0] if isinstance(rows[0][k], (int, float))}
    print(f'  {name}: ' + ', '.join(f'{k} {v:g}' for k, v in median.items()))

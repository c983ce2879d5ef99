"""The rows of the comparison: what each measures, what it takes in time and disk, and the goals that it is held against."""
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import remoting
from servers import (ONE_NODE, RAFTMQ, THREE_GROUPS, THREE_NODES, Apache, Failed, Nodes, can_drop_caches, check_ports, cpu_seconds,
                     drop_caches, kept)

DRAINED, CONSUMED = 300_000, 1_000_000
POPPED, FILTERED, TAGS = 40_000, 200_000, 10
DUE, DUE_PER_S, DUE_LEAD_S = 20_000, 5_000, 4
LIMITED_PER_S = 20_000
QUEUES_PER_TOPIC = 100
# What it takes to start, make topics and stop, roughly.
NODES_S, ASYNC_S, DOUBLE_S, DLEDGER_S = 4, 14, 16, 30
FILL_S_PER_GIB = 15
SYNC_FLUSH = 'flushDiskType=SYNC_FLUSH'


def own_s(o):
    return o.warm_up + o.seconds + 2


def java_s(o):
    return o.java_warm_up + o.seconds + 4


def fill_s(o):
    return o.gib * FILL_S_PER_GIB + 20


def load_gib(o):
    """Three nodes allocate three segments each; and what comes in."""
    return 10 + 0.4 * (o.warm_up + o.seconds)


def kept_gib(o):
    return o.retained_nodes * (o.gib * 1.05 + 7)


def of_generator(d):
    latency = d['latency_ms']
    figures = dict(per_s=int(d['messages_per_second']), cpu_us=round(d['server_cpu_us_per_message'], 1), failed=d['failed'])
    if latency['max']:
        figures |= dict(p50_ms=latency['p50'], p99_ms=latency['p99'], max_ms=latency['max'])
    return figures | dict(rss_mib=d['server_rss_mib'], anonymous_mib=d['server_anonymous_mib'])


def produce(servers, topic, *arguments, more_warm_up=0):
    o = servers.bench.options
    return of_generator(servers.generator('produce', '-t', topic, '--seconds', o.seconds, '--warm-up', o.warm_up + more_warm_up,
                                          *arguments))


def rounds(bench):
    """The numbers of the rounds, as long as there is time for one more."""
    return itertools.takewhile(lambda _: time.monotonic() < bench.deadline, range(1, bench.options.rounds + 1))


def on_nodes(bench, measure, files=THREE_NODES):
    """With nodes that start fresh and end afterwards."""
    with Nodes(bench, files) as nodes:
        return measure(nodes)


def on_apache(bench, mode, measure, extra=''):
    with Apache(bench, mode, extra) as servers:
        return measure(servers)


# Throughput and latency of sends


def generator(bench):
    def measure(nodes, in_flight, clients):
        nodes.topic('g')
        return produce(nodes, 'g', '--in-flight', in_flight, '--clients', clients)

    kinds = [('1,024 in flight', THREE_NODES, 1024, 2), ('1,024 in flight, three groups', THREE_GROUPS, 1024, 2),
             ('64 in flight', THREE_NODES, 64, 2), ('one in flight', THREE_NODES, 1, 1)]
    for turn in rounds(bench):
        for name, files, in_flight, clients in kinds:
            bench.attempt(name, turn, lambda: on_nodes(bench, lambda nodes: measure(nodes, in_flight, clients), files))
    r = bench.report
    for name in ('1,024 in flight', '1,024 in flight, three groups'):
        r.goal(f'{name}: msg/s', r.median(name, 'per_s'), 80_000, at_least=True)
        r.goal(f'{name}: µs CPU of all nodes a message', r.median(name, 'cpu_us'), 15)
        r.goal(f'{name}: anonymous MiB a node', r.median(name, 'anonymous_mib'), 64)
    r.goal('one in flight: p50 ms', r.median('one in flight', 'p50_ms'), 0.9)
    r.goal('one in flight: p99 ms', r.median('one in flight', 'p99_ms'), 3)


def java(bench):
    def measure(servers):
        return servers.java_throughput()

    for turn in rounds(bench):
        bench.attempt('RaftMQ', turn, lambda: on_nodes(bench, measure))
        bench.attempt('Apache ASYNC_FLUSH', turn, lambda: on_apache(bench, 'async', measure))
        bench.attempt('Apache SYNC_FLUSH', turn, lambda: on_apache(bench, 'sync', measure))
        bench.attempt('Apache SYNC_MASTER + slave, SYNC_FLUSH', turn, lambda: on_apache(bench, 'double', measure, SYNC_FLUSH))
    r = bench.report
    r.goal('msg/s × Apache ASYNC_FLUSH (below 1.2: to explain)', r.ratio('RaftMQ', 'Apache ASYNC_FLUSH', 'per_s'), 1.5, at_least=True)
    r.goal('msg/s × Apache SYNC_FLUSH', r.ratio('RaftMQ', 'Apache SYNC_FLUSH', 'per_s'), None)
    r.goal('msg/s × Apache pair, SYNC_FLUSH', r.ratio('RaftMQ', 'Apache SYNC_MASTER + slave, SYNC_FLUSH', 'per_s'), 3, at_least=True)
    r.goal('anonymous MiB a node', r.median('RaftMQ', 'anonymous_mib'), 64)


def dledger(bench):
    def measure(servers):
        return servers.java_throughput()

    for turn in rounds(bench):
        bench.attempt('RaftMQ', turn, lambda: on_nodes(bench, measure))
        bench.attempt('DLedger', turn, lambda: on_apache(bench, 'dledger', measure))
        bench.attempt('DLedger, batch push', turn, lambda: on_apache(bench, 'dledger', measure, 'isEnableBatchPush=true'))
    r = bench.report
    r.goal('msg/s × DLedger as it comes', r.ratio('RaftMQ', 'DLedger', 'per_s'), 20, at_least=True)
    r.goal('msg/s × DLedger with batch push', r.ratio('RaftMQ', 'DLedger, batch push', 'per_s'), 10, at_least=True)


def replication(bench):
    def java_64(servers):
        return servers.java_throughput()

    def one_in_flight(servers):
        servers.topic('g')
        return produce(servers, 'g', '--in-flight', 1, '--clients', 1)

    for turn in rounds(bench):
        for nodes, files in (('one node', ONE_NODE), ('three nodes', THREE_NODES)):
            bench.attempt(f'java, 64 threads, {nodes}', turn, lambda: on_nodes(bench, java_64, files))
        for nodes, files in (('one node', ONE_NODE), ('three nodes', THREE_NODES)):
            bench.attempt(f'one in flight, {nodes}', turn, lambda: on_nodes(bench, one_in_flight, files))
    r = bench.report
    share = r.ratio('java, 64 threads, three nodes', 'java, 64 threads, one node', 'per_s')
    r.goal('java, 64 threads: % fewer msg/s on three nodes', None if share is None else (1 - share) * 100, 15)
    three, one = (r.median(f'one in flight, {nodes}', 'p50_ms') for nodes in ('three nodes', 'one node'))
    r.goal('one in flight: ms more at p50', None if None in (three, one) else three - one, 0.4)


# End to end, and consumers


def end(bench):
    def measure(nodes):
        nodes.topic('e')
        o = bench.options
        return of_generator(nodes.generator('end-to-end', '-t', 'e', '--rate', 1000, '--seconds', o.seconds, '--warm-up', o.warm_up))

    for turn in rounds(bench):
        bench.attempt('own client, 1,000/s', turn, lambda: on_nodes(bench, measure))
    r = bench.report
    r.goal('p50 ms', r.median('own client, 1,000/s', 'p50_ms'), 1.2)
    r.goal('p99 ms', r.median('own client, 1,000/s', 'p99_ms'), 5)


LATENCY_WARM_UP_S = 10


def latency(bench):
    def measure(servers):
        servers.java_throughput('warm-up', seconds=6, warm_up=2)
        servers.topic('l')
        found, _ = servers.java('latency', 'latency', '--topic', 'l', '--rate', 1000, '--count', 1000 * bench.options.seconds,
                                '--warm-up', 1000 * LATENCY_WARM_UP_S)
        figures = {name: round(value, 2) for name, value in found.items() if name.endswith('_ms')}
        if not found['complete']:
            raise Failed(f'not all messages arrived: {found}')
        return figures | dict(failed=found['failed'])

    for turn in rounds(bench):
        bench.attempt('RaftMQ', turn, lambda: on_nodes(bench, measure))
        bench.attempt('Apache ASYNC_FLUSH', turn, lambda: on_apache(bench, 'async', measure))
        bench.attempt('Apache SYNC_MASTER + slave', turn, lambda: on_apache(bench, 'double', measure))
        bench.attempt('Apache SYNC_MASTER + slave, SYNC_FLUSH', turn, lambda: on_apache(bench, 'double', measure, SYNC_FLUSH))
    r = bench.report
    for key, name in (('end_to_end_p50_ms', 'p50'), ('end_to_end_p99_ms', 'p99')):
        r.goal(f'{name} × Apache SYNC_MASTER + slave, as it comes', r.ratio('RaftMQ', 'Apache SYNC_MASTER + slave', key), 0.5)
        r.goal(f'{name} × Apache ASYNC_FLUSH', r.ratio('RaftMQ', 'Apache ASYNC_FLUSH', key), None)
        r.goal(f'{name} × Apache pair, SYNC_FLUSH', r.ratio('RaftMQ', 'Apache SYNC_MASTER + slave, SYNC_FLUSH', key), None)


def consume(bench):
    def drain(nodes, group):
        return nodes.generator('consume', '-t', 'c', '--group', group, '--count', CONSUMED, '--seconds', 90, '--warm-up', 0)

    def figures(d):
        return dict(per_s=int(d['messages_per_second']), cpu_us=round(d['server_cpu_us_per_message'], 1))

    def cold(nodes, turn):
        # Of a node that does not lead: what the consumer will read is not touched.
        drop_caches()
        began, bytes_read = time.monotonic(), 0
        with open(min(nodes.data(2).rglob('log/0*0')), 'rb', buffering=0) as segment:
            while bytes_read < 1 << 30 and (part := segment.read(1 << 20)):
                bytes_read += len(part)
        disk = bytes_read / (time.monotonic() - began) / (1 << 20)
        drop_caches()
        d = drain(nodes, f'cold-{turn}')
        per_message = remoting.log_end(nodes.master()) / remoting.stored(nodes.master(), 'c', 8)
        return figures(d) | dict(mib_per_s=round(d['messages_per_second'] * per_message / (1 << 20)), disk_mib_per_s=round(disk))

    for turn in rounds(bench):
        with Nodes(bench) as nodes:
            nodes.topic('c')
            nodes.fill_messages('c', CONSUMED + 50_000)
            drain(nodes, f'warm-up-{turn}')
            bench.attempt('one consumer', turn, lambda: figures(drain(nodes, f'warm-{turn}')))
            if can_drop_caches():
                bench.attempt('one consumer, cold files', turn, lambda: cold(nodes, turn))
    r = bench.report
    warm = r.median('one consumer', 'per_s')
    r.goal('msg/s', warm, 150_000, at_least=True)
    speed, disk = (r.median('one consumer, cold files', key) for key in ('mib_per_s', 'disk_mib_per_s'))
    r.goal('cold files: share of a plain read of the disk (goal: disk speed)', None if None in (speed, disk) else speed / disk, None)
    r.goal('cold files: share of the rate from memory',
           r.ratio('one consumer, cold files', 'one consumer', 'per_s'), None)


def drain(bench):
    def measure(servers):
        servers.topic('d')
        servers.fill_messages('d', DRAINED + 20_000, in_flight=64)
        # The servers' JVMs learn from a first one.
        servers.java_consumed('d', 'warm-up', DRAINED)
        return servers.java_consumed('d', 'drain', DRAINED)

    for turn in rounds(bench):
        bench.attempt('RaftMQ', turn, lambda: on_nodes(bench, measure))
        bench.attempt('Apache ASYNC_FLUSH', turn, lambda: on_apache(bench, 'async', measure))
    r = bench.report
    r.goal('msg/s × Apache ASYNC_FLUSH', r.ratio('RaftMQ', 'Apache ASYNC_FLUSH', 'per_s'), 1.2, at_least=True)


# Small things


def start(bench):
    def measure():
        offset, data = bench.options.port_offset, bench.work / 'dev'
        check_ports(bench, [port + offset for port in (9876, 10901, 10902, 10903, 10911, 10921, 10931)])
        shutil.rmtree(data, ignore_errors=True)
        began = time.monotonic()
        dev = bench.start([RAFTMQ, 'dev', '--data', data, '--port-offset', offset], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True)
        watch = threading.Timer(bench.left(20), dev.kill)
        watch.start()
        try:
            if not any('raftmq produce' in line for line in dev.stdout):
                raise Failed('raftmq dev has ended, or was not ready within 20 s')
            ready = time.monotonic() - began
            bench.run([RAFTMQ, 'produce', '-n', f'127.0.0.1:{9876 + offset}', '--topic', 'first', '--count', 1], 10)
            sent = time.monotonic() - began
            dev.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                dev.wait(bench.left(10))
        finally:
            watch.cancel()
            bench.end(dev)
            shutil.rmtree(data, ignore_errors=True)
        return dict(ready_ms=round(ready * 1000), sent_ms=round(sent * 1000))

    for turn in rounds(bench):
        bench.attempt('raftmq dev', turn, measure)
    bench.report.goal('ms to a first send by another process', bench.report.median('raftmq dev', 'sent_ms'), 300)


def idle(bench):
    def measure(nodes):
        time.sleep(2)
        before, began = cpu_seconds(nodes.pids()), time.monotonic()
        time.sleep(bench.left(bench.options.seconds))
        used, took = cpu_seconds(nodes.pids()) - before, time.monotonic() - began
        return dict(core_percent=round(used / took / len(nodes.pids()) * 100, 2)) | nodes.memory()

    for turn in rounds(bench):
        bench.attempt('three nodes, one group', turn, lambda: on_nodes(bench, measure))
    r = bench.report
    r.goal('% of a core a node', r.median('three nodes, one group', 'core_percent'), 3)
    r.goal('anonymous MiB a node', r.median('three nodes, one group', 'anonymous_mib'), 32)


# What RocketMQ does beside plain messages


def against_apache(bench, measure, modes=('async',)):
    """RaftMQ and Apache in turn; gives the names of the latter."""
    names = {mode: f'Apache {mode.upper()}_FLUSH' for mode in modes}
    for turn in rounds(bench):
        bench.attempt('RaftMQ', turn, lambda: on_nodes(bench, measure))
        for mode, name in names.items():
            bench.attempt(name, turn, lambda: on_apache(bench, mode, measure))
    return names.values()


def delay(bench):
    def due(servers, topic, count, lead):
        return servers.generator('delay', '-t', topic, '--count', count, '--rate', DUE_PER_S, '--lead', lead)

    def measure(servers):
        servers.topic('warm-up', 'd')
        # The servers' JVMs learn from a first one.
        due(servers, 'warm-up', DUE // 4, DUE_LEAD_S)
        d = due(servers, 'd', DUE, DUE_LEAD_S)
        late = {f'late_{name}_ms': round(d['late_ms'][name], 1) for name in ('p50', 'p99', 'max')}
        return dict(messages=d['messages'], early=d['early'], early_ms_max=d['early_ms_max'], missing=d['missing'],
                    twice=d['twice']) | late | dict(store_cpu_us=round(d['store_cpu_us_per_message'], 1),
                                                    deliver_cpu_us=round(d['deliver_cpu_us_per_message'], 1))

    names = against_apache(bench, measure)
    r = bench.report
    for name in ('RaftMQ', *names):
        r.goal(f'{name}: early', r.median(name, 'early'), 0 if name == 'RaftMQ' else None)
        r.goal(f'{name}: late, max ms', r.median(name, 'late_max_ms'), 1000 if name == 'RaftMQ' else None)
    for name in names:
        r.goal(f'CPU to store × {name}', r.ratio('RaftMQ', name, 'store_cpu_us'), None)
        r.goal(f'CPU to deliver × {name}', r.ratio('RaftMQ', name, 'deliver_cpu_us'), None)


def pop(bench):
    def popped(servers, group, count):
        remoting.request_mode(servers.master(), 'p', group, 'POP')
        return servers.java_consumed('p', group, count, '--pop')

    def measure(servers):
        servers.topic('p')
        servers.fill_messages('p', POPPED + 2_000, in_flight=64)
        popped(servers, 'warm-up', POPPED // 2)
        return popped(servers, 'pop', POPPED)

    for name in against_apache(bench, measure):
        bench.report.goal(f'msg/s × {name}', bench.report.ratio('RaftMQ', name, 'per_s'), None)
        bench.report.goal(f'CPU a message × {name}', bench.report.ratio('RaftMQ', name, 'cpu_us'), None)


def filtered(bench):
    tags = [f'tag-{n}' for n in range(TAGS)]
    selections = {'tag': ('--tags', tags[0]), 'sql': ('--sql', f"TAGS = '{tags[0]}'")}

    def measure(servers):
        servers.topic('f')
        there = servers.fill_messages('f', FILTERED, in_flight=64, more=('--tag', ','.join(tags)))
        # Tags are spread evenly, but not to the message.
        matches = there * 49 // 50 // TAGS
        figures = {}
        for group, kind in (('warm-up', 'sql'), ('tag', 'tag'), ('sql', 'sql')):
            found = servers.java_consumed('f', group, matches, *selections[kind])
            figures |= {f'{kind}_per_s': found['per_s'] * TAGS, f'{kind}_cpu_us': round(found['cpu_us'] / TAGS, 2)}
        return dict(looked_at=matches * TAGS) | figures

    for name in against_apache(bench, measure):
        for kind in selections:
            bench.report.goal(f'{kind}: looked at a second × {name}', bench.report.ratio('RaftMQ', name, f'{kind}_per_s'), None)
            bench.report.goal(f'{kind}: CPU × {name}', bench.report.ratio('RaftMQ', name, f'{kind}_cpu_us'), None)


def transactions(bench):
    def measure(servers):
        return servers.java_throughput('t', threads=32, transactions=True)

    for name in against_apache(bench, measure, ('async', 'sync')):
        bench.report.goal(f'transactions/s × {name}', bench.report.ratio('RaftMQ', name, 'per_s'), None)
        bench.report.goal(f'CPU a transaction × {name}', bench.report.ratio('RaftMQ', name, 'cpu_us'), None)


# More than it can do


def overload(bench):
    o = bench.options

    def measure(size, cpus, generator_cpus, limits=None, capacity=None, times=10):
        with Nodes(bench, limits=limits, cpus=cpus) as nodes:
            nodes.topic('o')
            known = ['--capacity', capacity] if capacity else ['--capacity-seconds', 6]
            command = nodes.generator_command('overload', '-t', 'o', '--size', size, '--seconds', o.overload_seconds, '--warm-up', 3,
                                              '--connections', 200, '--times', times, *known)
            d = json.loads(bench.run(['taskset', '-c', generator_cpus, *command], o.overload_seconds + 60))
            for refusal in d['refusals']:
                print(f'      {refusal["count"]} × {refusal["code"]}: {refusal["remark"]}', flush=True)
            names = dict(capacity='capacity_per_second', offered='offered_per_second', held_back='held_back_per_second',
                         at_nodes='answered_per_second', goodput='goodput_per_second', refused='refused_per_second',
                         lost='lost_per_second', late='late_per_second')
            figures = {name: round(d[key]) for name, key in names.items()}
            return figures | dict(goodput_percent=round(d['goodput_percent'], 1),
                                  times_at_nodes=round(figures['at_nodes'] / figures['capacity'], 2),
                                  mean_ms=round(d['latency_ms_mean'], 1), elections=d['elections'],
                                  anonymous_mib_max=d['server_anonymous_mib_max'])

    # Small messages, so that one core offers ten times what the others can; what the generator takes of their time, or the
    # kernel to carry large ones, would be no overload of the nodes.
    last = (os.cpu_count() or 1) - 1
    if last == 0:
        raise Failed('it needs a core for the generator and one for the nodes')
    kind = dict(size=100, cpus=f'0-{last - 1}', generator_cpus=str(last))
    kinds = {
        f'a topic that takes {LIMITED_PER_S:,} a second': kind | dict(limits=dict(topic_messages_per_second=LIMITED_PER_S),
                                                                     capacity=LIMITED_PER_S),
        'all that the nodes can, twice': kind | dict(times=2),
        'all that the nodes can, ten times': kind,
    }
    for name, kind in kinds.items():
        bench.attempt(name, 1, lambda: measure(**kind))
        r = bench.report
        r.goal(f'{name}: times its capacity that the nodes dealt with', r.median(name, 'times_at_nodes'), None)
        r.goal(f'{name}: goodput %', r.median(name, 'goodput_percent'), 80, at_least=True)
        r.goal(f'{name}: elections', r.median(name, 'elections'), 0)


# Cost as work grows


def queues(bench):
    o = bench.options
    topics = max(1, o.queues // QUEUES_PER_TOPIC)

    def measure(nodes, count, per_topic):
        names = [f'q-{n}' for n in range(count)]
        nodes.topic(*names, queues=per_topic)
        # Every queue has messages when it is measured, and clients know all routes.
        figures = produce(nodes, 'q', '--topics', count, more_warm_up=5)
        time.sleep(3)
        segments, beside = nodes.disk_mib()
        return figures | dict(beside_messages_mib=beside, segments_mib=segments)

    few, many = '8 queues', f'{topics * QUEUES_PER_TOPIC:,} queues'
    for turn in rounds(bench):
        bench.attempt(few, turn, lambda: on_nodes(bench, lambda nodes: measure(nodes, 1, 8)))
        bench.attempt(many, turn, lambda: on_nodes(bench, lambda nodes: measure(nodes, topics, QUEUES_PER_TOPIC)))
    r = bench.report
    r.goal(f'{many}: resident MiB, largest node', r.median(many, 'rss_mib'), 512)
    r.goal(f'{many}: MiB of disk beside the messages, one node', r.median(many, 'beside_messages_mib'), 1024)
    r.goal('msg/s × 8 queues', r.ratio(many, few, 'per_s'), 0.8, at_least=True)
    r.goal('CPU a message × 8 queues', r.ratio(many, few, 'cpu_us'), None)


def steady(servers, topic, *more, more_warm_up=0):
    """At one rate, so that entries hold as much in both cases and only their cost differs."""
    return produce(servers, topic, '--rate', servers.bench.options.steady_rate, *more, more_warm_up=more_warm_up)


def topics(bench):
    def measure(nodes, count):
        nodes.topic(*(f't-{n}' for n in range(count)))
        return steady(nodes, 't', '--topics', count, more_warm_up=5)

    few, many = '8 topics', f'{bench.options.topics:,} topics'
    for turn in rounds(bench):
        bench.attempt(few, turn, lambda: on_nodes(bench, lambda nodes: measure(nodes, 8)))
        bench.attempt(many, turn, lambda: on_nodes(bench, lambda nodes: measure(nodes, bench.options.topics)))
    bench.report.goal('CPU a message × 8 topics', bench.report.ratio(many, few, 'cpu_us'), 1.1)


def retained(bench):
    gib = bench.options.gib

    def measure(nodes):
        if 'g' not in nodes.queues:
            nodes.topic('g')
        # What follows a fill or a start is over: checkpoints, merges of index files.
        time.sleep(bench.left(8))
        return steady(nodes, 'g') | dict(log_gib=round(remoting.log_end(nodes.master()) / (1 << 30), 1))

    def fresh():
        bench.need_room(bench.options.retained_nodes * 5)
        with Nodes(bench, ONE_NODE if bench.options.retained_nodes == 1 else THREE_NODES) as nodes:
            nodes.fill('fill', lambda master: remoting.log_end(master) >= 1 << 30, 120, size=bench.options.size)
            return measure(nodes)

    def full():
        with kept(bench, gib) as nodes:
            return measure(nodes)

    with kept(bench, gib):
        pass
    few, many = 'fresh nodes, 1 GiB retained', f'kept nodes, {gib:g} GiB retained'
    for turn in rounds(bench):
        bench.attempt(few, turn, fresh)
        bench.attempt(many, turn, full)
    bench.report.goal('CPU a message × 1 GiB retained', bench.report.ratio(many, few, 'cpu_us'), 1.1)


# What needs a large log


def backlog(bench):
    o = bench.options

    def alone(nodes):
        return produce(nodes, 'live', '--rate', o.live_rate)

    def beside(nodes, group, cold):
        if cold:
            drop_caches()
        # It reads for longer than the producers are measured.
        reader = nodes.start_generator('consume', '-t', 'fill', '--group', group, '--seconds', o.warm_up + o.seconds + 10, '--warm-up', 0)
        try:
            time.sleep(bench.left(2))
            figures = alone(nodes)
            try:
                output, _ = reader.communicate(timeout=bench.left(60))
            except subprocess.TimeoutExpired:
                raise Failed('the lagging consumer does not end') from None
        finally:
            bench.end(reader)
        if reader.returncode:
            raise Failed(f'the lagging consumer: {(bench.work / "generator.log").read_text().strip()[-400:]}')
        read = json.loads(output)
        there = remoting.stored(nodes.master(), 'fill', 8)
        if read['messages'] > there * 0.98:
            raise Failed(f'the lagging consumer had read all {there} messages before the producers were measured: see --gib')
        return figures | dict(consumer_per_s=int(read['messages_per_second']),
                              consumer_mib_per_s=round(read['messages_per_second'] * o.size / (1 << 20)))

    alone_name, beside_name, cold_name = 'producers alone', 'producers beside the consumer', 'producers beside the consumer, cold files'
    with kept(bench, o.gib) as nodes:
        nodes.topic('live')
        for turn in rounds(bench):
            bench.attempt(alone_name, turn, lambda: alone(nodes))
            bench.attempt(beside_name, turn, lambda: beside(nodes, f'lag-{turn}', False))
            if can_drop_caches():
                bench.attempt(cold_name, turn, lambda: beside(nodes, f'lag-cold-{turn}', True))
    r = bench.report
    r.goal('p99 × without the consumer', r.ratio(beside_name, alone_name, 'p99_ms'), 2)
    r.goal('p99 × without the consumer, cold files', r.ratio(cold_name, alone_name, 'p99_ms'), 2)


def first_ms(began, probe):
    """Milliseconds from `began` until the probe holds; None when it does not within a minute."""
    while time.monotonic() < began + 60:
        with contextlib.suppress(OSError, ValueError, KeyError, remoting.Refused):
            if probe():
                return round((time.monotonic() - began) * 1000)
        time.sleep(0.01)
    return None


def together(probes, began):
    with concurrent.futures.ThreadPoolExecutor(len(probes)) as pool:
        found = {name: pool.submit(first_ms, began, probe) for name, probe in probes.items()}
    found = {name: future.result() for name, future in found.items()}
    missing = [name for name, ms in found.items() if ms is None]
    if missing:
        raise Failed(f'not within a minute: {", ".join(missing)}')
    return found


def restart(bench):
    def kill(nodes, numbers):
        """kill -9 under load. The entries that were committed before."""
        for number, process in enumerate(nodes.running):
            if process is None or process.poll() is not None:
                nodes.start_node(number)
        nodes.settle(60)
        load = nodes.start_generator('produce', '-t', 'burst', '--seconds', 60, '--warm-up', 0, '--rate', 2000)
        try:
            time.sleep(bench.left(3))
            committed = remoting.group_status(nodes.addresses[0])['committed_index']
            if len(numbers) == len(nodes.running):
                nodes.kill()
            else:
                for number in numbers:
                    nodes.kill_node(number)
        finally:
            bench.end(load)
        return committed

    def is_sent(address):
        return remoting.send(address, 'warm', 3.0) is None

    def is_ready(address, committed):
        status = remoting.group_status(address, 1.0)
        return status['state'] in ('leader', 'follower') and status['applied_index'] >= committed

    def one(nodes, cold):
        last = len(nodes.running) - 1
        kill(nodes, [last])
        committed = remoting.group_status(nodes.addresses[0])['committed_index']
        if cold:
            drop_caches()
        began = time.monotonic()
        nodes.start_node(last)
        address = nodes.addresses[last]
        found = together({'sent': lambda: is_sent(address), 'ready': lambda: is_ready(address, committed)}, began)
        return dict(start_ms=max(found.values()), sent_by_way_of_it_ms=found['sent'], caught_up_ms=found['ready'])

    def every(nodes, cold):
        committed = kill(nodes, range(len(nodes.running)))
        if cold:
            drop_caches()
        began = time.monotonic()
        for number in range(len(nodes.running)):
            nodes.start_node(number)
        probes = {'route': lambda: any(is_sent(address) for address in remoting.masters(nodes.nameserver).values())}
        for number, address in enumerate(nodes.addresses):
            probes[f'sent {number}'] = lambda address=address: is_sent(address)
            probes[f'ready {number}'] = lambda address=address: is_ready(address, committed)
        found = together(probes, began)
        sent = min(ms for name, ms in found.items() if name.startswith('sent'))
        ready = max(ms for name, ms in found.items() if name.startswith('ready'))
        return dict(start_ms=sent, by_the_nameserver_ms=found['route'], all_caught_up_ms=ready)

    kinds = [('one node of the group', one), ('all nodes at once', every)][1 if bench.options.retained_nodes == 1 else 0:]
    states = [('warm', False), ('cold caches', True)][:2 if can_drop_caches() else 1]
    with kept(bench, bench.options.gib) as nodes:
        nodes.topic('burst')
        for turn in rounds(bench):
            for kind, measure in kinds:
                for state, cold in states:
                    bench.attempt(f'{kind}, {state}', turn, lambda: measure(nodes, cold))
    for kind, _ in kinds:
        for state, _ in states:
            bench.report.goal(f'{kind}, {state}: ms', bench.report.median(f'{kind}, {state}', 'start_ms'), 2000)

def pending(bench):
    """A message that falls due while nobody leads, behind all others in the queue of timers: it is delivered when a new leader
    has looked through them."""
    def leave_last(nodes, due_in_s):
        before = remoting.stored(nodes.addresses[1], 'last', 1)
        due = time.time() + due_in_s
        remoting.send(nodes.addresses[1], 'last', properties={'TIMER_DELIVER_MS': round(due * 1000)})
        return before, due

    def wait(nodes, began, before, numbers):
        addresses = [nodes.addresses[number] for number in numbers]
        probes = dict(sent=lambda: any(is_sent(address) for address in addresses),
                      delivered=lambda: any(remoting.stored(address, 'last', 1) > before for address in addresses))
        found = together(probes, began)
        return dict(sent_ms=found['sent'], delivered_ms=found['delivered']) | nodes.memory()

    def failover(nodes):
        before, _ = leave_last(nodes, 0.3)
        began = time.monotonic()
        nodes.kill_node(0)
        figures = wait(nodes, began, before, [1, 2])
        nodes.start_node(0)
        nodes.settle(60)
        return figures

    def restart(nodes, cold):
        before, due = leave_last(nodes, 0.5)
        nodes.kill()
        if cold:
            drop_caches()
        time.sleep(max(0, due - time.time()))
        began = time.monotonic()
        for number in range(len(nodes.running)):
            nodes.start_node(number)
        figures = wait(nodes, began, before, range(len(nodes.running)))
        nodes.settle(60)
        return figures

    def is_sent(address):
        return remoting.send(address, 'warm', 3.0) is None

    def measure(nodes, how_many):
        for turn in rounds(bench):
            bench.attempt(f'{how_many}: the leader killed', turn, lambda: failover(nodes))
            bench.attempt(f'{how_many}: all killed, warm', turn, lambda: restart(nodes, False))
            if can_drop_caches():
                bench.attempt(f'{how_many}: all killed, cold caches', turn, lambda: restart(nodes, True))

    many = f'{bench.options.pending:,} wait'
    with Nodes(bench) as nodes:
        nodes.topic('last', queues=1)
        nodes.topic('d')
        measure(nodes, 'few wait')
        d = nodes.generator('delay', '-t', 'd', '--pending', bench.options.pending, '--count', 1, '--rate', 1, '--lead', 1, '--size',
                            256, most=300)
        bench.report.note(many, 1, {key: d[key] for key in ('pending', 'anonymous_kib_before', 'anonymous_kib_with_pending')})
        measure(nodes, many)
        for what, more in {'1,000 listed': ['--max', 1000], 'those of an hour listed': ['--within', '1h']}.items():
            began = time.monotonic()
            bench.run([RAFTMQ, 'admin', '-n', nodes.nameserver, 'delay', '--topic', 'd', *more], 120)
            bench.report.note(f'{many}: {what}', 1, dict(listed_ms=(time.monotonic() - began) * 1000))
    r = bench.report
    for how in ('the leader killed', 'all killed, warm', 'all killed, cold caches'):
        for key in ('sent', 'delivered'):
            of_many, of_few = (r.median(f'{name}: {how}', f'{key}_ms') for name in (many, 'few wait'))
            r.goal(f'{how}: {key}, ms', of_many, None)
            r.goal(f'{how}: {key}, ms more than with few', None if None in (of_many, of_few) else of_many - of_few, None)


@dataclasses.dataclass
class Row:
    run: object
    what: str
    # Of the options: seconds, and GiB of disk while it runs.
    seconds: object
    gib: object
    needs_java: bool = False
    keeps: bool = False


ROWS = {
    'generator': Row(generator, 'own generator, three nodes: 1,024 (one group, three groups), 64 and one in flight',
                     lambda o: o.rounds * 4 * (NODES_S + own_s(o)), lambda o: 20 + load_gib(o)),
    'java': Row(java, 'stock Java producer, 64 threads: RaftMQ, Apache ASYNC_FLUSH, SYNC_FLUSH, SYNC_FLUSH pair',
                lambda o: o.rounds * (NODES_S + 2 * ASYNC_S + DOUBLE_S + 4 * java_s(o)), load_gib, True),
    'dledger': Row(dledger, 'stock Java producer, 64 threads: RaftMQ, DLedger as it comes, with batch push',
                   lambda o: o.rounds * (NODES_S + 2 * DLEDGER_S + 3 * java_s(o)), load_gib, True),
    'replication': Row(replication, 'one RaftMQ node against three: 64 Java threads, and one in flight',
                       lambda o: o.rounds * 2 * (2 * NODES_S + java_s(o) + own_s(o)), load_gib, True),
    'end': Row(end, 'end to end at 1,000 msg/s, own client',
               lambda o: o.rounds * (NODES_S + own_s(o) + 5), load_gib),
    'latency': Row(latency, 'end to end at 1,000 msg/s, stock Java clients: RaftMQ, Apache ASYNC_FLUSH, pair, SYNC_FLUSH pair',
                   lambda o: o.rounds * (NODES_S + ASYNC_S + 2 * DOUBLE_S + 4 * (o.seconds + LATENCY_WARM_UP_S + 20)),
                   load_gib, True),
    'consume': Row(consume, 'own consumer over a million messages, from memory and from cold files',
                   lambda o: o.rounds * (NODES_S + 15 + 3 * 9 + 8), lambda o: 15),
    'drain': Row(drain, 'stock Java consumer over 300,000 messages: RaftMQ, Apache ASYNC_FLUSH',
                 lambda o: o.rounds * (NODES_S + ASYNC_S + 2 * (10 + 2 * 14)), load_gib, True),
    'delay': Row(delay, f'{DUE:,} timer messages, {DUE_PER_S:,} due in a second, own client: RaftMQ, Apache ASYNC_FLUSH',
                 lambda o: o.rounds * (NODES_S + ASYNC_S + 2 * (2 * DUE_LEAD_S + DUE * 1.25 / DUE_PER_S + 4)), load_gib, True),
    'pop': Row(pop, f'stock Java consumer that pops {POPPED:,} messages: RaftMQ, Apache ASYNC_FLUSH',
               lambda o: o.rounds * (NODES_S + ASYNC_S + 2 * 18), load_gib, True),
    'filtered': Row(filtered, f'stock Java consumer of a tenth of {FILTERED:,} messages, by tag and by SQL: RaftMQ, Apache ASYNC_FLUSH',
                    lambda o: o.rounds * (NODES_S + ASYNC_S + 2 * 20), load_gib, True),
    'transactions': Row(transactions, 'stock Java producer, 32 threads, half message and commit: RaftMQ, Apache ASYNC_FLUSH, SYNC_FLUSH',
                        lambda o: o.rounds * (NODES_S + 2 * ASYNC_S + 3 * java_s(o)), load_gib, True),
    'overload': Row(overload, '10 × capacity for --overload-seconds, once: of a limit of a topic, and of all that the nodes can on all cores but one',
                    lambda o: 3 * (NODES_S + o.overload_seconds + 12), lambda o: load_gib(o) + 0.4 * o.overload_seconds),
    'start': Row(start, 'raftmq dev: to ready, and to a first send by another process', lambda o: o.rounds * 2, lambda o: 2),
    'idle': Row(idle, 'three idle nodes', lambda o: o.rounds * (NODES_S + o.seconds + 3), load_gib),
    'queues': Row(queues, 'own generator over 8 and --queues queues: resident memory, disk, throughput',
                  lambda o: o.rounds * 2 * (NODES_S + own_s(o) + 12), lambda o: load_gib(o) + 2),
    'topics': Row(topics, 'CPU a message at --steady-rate: 8 and --topics topics',
                  lambda o: o.rounds * 2 * (NODES_S + own_s(o) + 8), load_gib),
    'retained': Row(retained, 'CPU a message at --steady-rate: 1 GiB and --gib GiB retained',
                    lambda o: fill_s(o) + o.rounds * (2 * NODES_S + 2 * own_s(o) + 45), lambda o: kept_gib(o) + 5 * o.retained_nodes, False, True),
    'backlog': Row(backlog, "producers' p99 at --live-rate while a consumer reads --gib GiB, also from cold files",
                   lambda o: fill_s(o) + o.rounds * (3 * own_s(o) + 30), kept_gib, False, True),
    'restart': Row(restart, 'start of one node and of all nodes with --gib GiB after kill -9, warm and cold',
                   lambda o: fill_s(o) + o.rounds * 4 * 15, kept_gib, False, True),
    'pending': Row(pending, 'a new leader over --pending delayed messages: to its first send, and to the delivery of what is due',
                   lambda o: o.pending / 20_000 + 20 + o.rounds * 6 * 12, load_gib),
}

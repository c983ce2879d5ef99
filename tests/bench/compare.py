#!/usr/bin/env python3
"""The figures of docs/benchmarks.md beside their goals: RaftMQ, and Apache RocketMQ beside it, in one run on this machine.

Needs target/release/raftmq (cargo build --release); for the rows with Java also java 17, javac and mvn. RaftMQ runs from the
files in conf/, Apache from apache.py beside this file. Servers start fresh for every measurement, but for the nodes with much
retained, which are filled once and serve all rows that need them. What is compared alternates (A B A B, --rounds of them);
medians and ratios are printed beside the goals, and everything goes to a JSON file. CPU is that of the nodes (nameserver
included) or of Apache's brokers, over the measured window only. A row that fails says why, and the others go on; each has a
budget of twice its expected time and three minutes. All data lie in --work and go at the end. Servers that were started end
with the row that started them; nobody else's processes are touched.
"""
import argparse
import datetime
import fcntl
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True

import rows  # noqa: E402
import servers  # noqa: E402

MARK = '.raftmq-compare'


class Report:
    """Figures as they come, on the screen and in a file, and the goals beside their medians."""

    def __init__(self, path, options):
        self.path, self.row, self.goals = path, None, []
        self.data = dict(began=datetime.datetime.now().astimezone().isoformat(timespec='seconds'), command=sys.argv,
                         options=vars(options), machine=machine(), rows={})

    def begin(self, name):
        self.row = self.data['rows'].setdefault(name, dict(status='running', figures={}, failures=[], goals=[]))
        self.name = name

    def finish(self, took, error=None):
        """Whether nothing failed."""
        if error:
            self.row['failures'].append(error)
        self.row['status'] = 'failed' if self.row['failures'] else 'done'
        self.row['took_s'] = round(took)
        self.save()
        return self.row['status'] == 'done'

    def save(self):
        self.data['goals'] = self.goals
        self.path.write_text(json.dumps(self.data, indent=1, default=str) + '\n')

    def note(self, name, turn, figures):
        self.row['figures'].setdefault(name, []).append(figures | dict(round=turn))
        print(f'  {turn} {name}: ' + ', '.join(f'{key} {value}' for key, value in figures.items()), flush=True)
        self.save()

    def fail(self, name, turn, error):
        text = f'{type(error).__name__}: {error}' if not isinstance(error, servers.Failed) else str(error)
        self.row['failures'].append(f'{name}, round {turn}: {text}')
        if not isinstance(error, servers.Failed):
            self.row.setdefault('traces', []).append(traceback.format_exc())
        print(f'  {turn} {name}: FAILED: {text}', flush=True)
        self.save()

    def median(self, name, key):
        """Over the rounds; of a list with a value for each node, the largest. None where nothing was measured."""
        values = [figures[key] for figures in self.row['figures'].get(name, []) if key in figures]
        values = [max(value) if isinstance(value, list) else value for value in values]
        return statistics.median(values) if values else None

    def ratio(self, name, other, key):
        mine, theirs = self.median(name, key), self.median(other, key)
        return mine / theirs if mine is not None and theirs else None

    def goal(self, what, figure, limit, at_least=False):
        """A figure beside its goal; `limit` None: the figure has none of its own."""
        sign = '≥' if at_least else '≤'
        goal = '' if limit is None else f'{sign} {limit:,g}'
        reached = None if figure is None or limit is None else (figure >= limit if at_least else figure <= limit)
        verdict = 'not measured' if figure is None else {None: '', True: 'reached', False: 'MISSED'}[reached]
        entry = dict(row=self.name, what=what, figure=figure, goal=goal, verdict=verdict)
        self.goals.append(entry)
        self.row['goals'].append(entry)

    def print_goals(self, goals):
        for entry in goals:
            figure = '–' if entry['figure'] is None else shown(entry['figure'])
            print(f'  {entry["verdict"]:<13}{figure:>10}  {entry["goal"]:<9} {entry["row"]}: {entry["what"]}', flush=True)


def shown(figure):
    return f'{figure:,.0f}' if abs(figure) >= 1000 else f'{figure:.3g}' if abs(figure) < 100 else f'{figure:.0f}'


def machine():
    def said(*command):
        try:
            return subprocess.run(command, cwd=servers.ROOT, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ''
    binary = servers.RAFTMQ
    return dict(cores=os.cpu_count(), memory_gib=round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30), 1),
                kernel=platform.release(), commit=said('git', 'rev-parse', '--short', 'HEAD'),
                changed_files=len(said('git', 'status', '--short').splitlines()),
                binary_built=datetime.datetime.fromtimestamp(binary.stat().st_mtime).isoformat(timespec='seconds'))


def touch_memory(work):
    """On a virtual machine memory is slow when it is touched for the first time, and a log that runs at 100 MB/s touches much
    of it. Whether a measurement comes first or last must not matter, and the host takes back what was freed by the one before.
    So all but a GiB of what is free is filled with pages of a file of holes, which take no disk; the kernel gives them away to
    whoever asks."""
    holes = work / 'holes'
    available = next(int(line.split()[1]) for line in open('/proc/meminfo') if line.startswith('MemAvailable')) << 10
    size = max(available - (1 << 30), 0)
    with open(holes, 'ab') as file:
        file.truncate(max(size, holes.stat().st_size))
    chunk = memoryview(bytearray(1 << 20))
    with open(holes, 'rb', buffering=0) as file:
        while size > 0 and (got := file.readinto(chunk)):
            size -= got


def take_directory(path):
    """The directory of this run, empty: what a run before left in it goes. One run at a time; held by the file."""
    path.mkdir(parents=True, exist_ok=True)
    others = [entry for entry in path.iterdir() if entry.name != MARK]
    if others and not (path / MARK).exists():
        sys.exit(f'{path} holds something that is not of this program: name another --work')
    mark = open(path / MARK, 'w')
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f'another comparison runs in {path}')
    for entry in others:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return mark


def minutes(seconds):
    return f'{seconds / 60:.0f} min' if seconds >= 90 else f'{seconds:.0f} s'


def plan(options, names):
    """What each row takes, as a table. Of the rows that keep their nodes only the first fills them."""
    lines, total, filled = [], 0, False
    for name in names:
        row = rows.ROWS[name]
        seconds = row.seconds(options) - (rows.fill_s(options) if row.keeps and filled else 0)
        filled, total = filled or row.keeps, total + seconds
        kept = ' (*)' if row.keeps else ''
        lines.append(f'  {name:<12}{minutes(seconds):>7} {row.gib(options):>4.0f} GiB{kept:<4} {row.what}')
    lines.append(f'  together {minutes(total)}' + ('; (*): share one filled cluster, of which the first pays the filling' if filled else ''))
    return '\n'.join(lines)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--only', default='', metavar='ROW,ROW', help='these rows; all of them when left out')
    add('--rounds', type=int, default=3, help='times that everything is measured (default 3)')
    add('--seconds', type=int, default=15, help='of each measured window (default 15)')
    add('--warm-up', type=int, default=3, help='seconds before it, own generator (default 3)')
    add('--java-warm-up', type=int, default=20, help='the same with a Java client: a JVM needs longer (default 20)')
    add('--gib', type=float, default=10, help='GiB of log of the rows retained, backlog, restart (default 10)')
    add('--size', type=int, default=1024, help='bytes of a body while those are filled (default 1024)')
    add('--retained-nodes', type=int, choices=[1, 3], default=3, help='nodes that hold them (default 3; 1 takes a third of the disk)')
    add('--queues', type=int, default=50_000, help='of the row queues (default 50000, 100 in each topic)')
    add('--topics', type=int, default=1_000, help='of the row topics (default 1000)')
    add('--pending', type=int, default=1_000_000, help='delayed messages of the row pending (default 1000000)')
    add('--overload-seconds', type=int, default=60, help='of each overload (default 60)')
    add('--steady-rate', type=int, default=40_000, help='messages a second in topics and retained (default 40000)')
    add('--live-rate', type=int, default=5_000, help="the producers' messages a second in backlog (default 5000)")
    add('--port-offset', type=int, default=0, help='added to each port of RaftMQ, 9876 to 9878 and 10901 to 11131')
    add('--apache-port', type=int, default=29876, help="of Apache's nameserver; brokers on 35, 45, 55 more (default 29876)")
    add('--work', type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / 'raftmq-compare',
        help='directory of all data, on the disk that is to be measured (default in the temporary directory)')
    add('--untouched', action='store_true', help='do not touch free memory before each measurement: for a look whether rows run, not for figures')
    add('--keep', action='store_true', help='leave it there, until the next run')
    add('--json', type=pathlib.Path, help='file of the figures (default target/bench/TIME.json)')
    add('--plan', action='store_true', help='print what the rows would take, and end')
    defaults = parser.parse_args([])
    parser.epilog = ('rows, with these defaults (time; disk at most):\n' + plan(defaults, rows.ROWS) +
                     '\n\nCold files and caches are measured as root only (/proc/sys/vm/drop_caches). --gib 50 on three nodes takes '
                     '180 GiB and\n15 minutes to fill; with --retained-nodes 1 it takes 60 GiB. Jars of Apache RocketMQ (150 MB, once) '
                     'go to target/bench.')
    return parser.parse_args()


def main():
    options = arguments()
    names = [name.strip() for name in options.only.split(',') if name.strip()] or list(rows.ROWS)
    unknown = [name for name in names if name not in rows.ROWS]
    if unknown:
        sys.exit(f'no row {", ".join(unknown)}; there are {", ".join(rows.ROWS)}')
    # In the order of the table, where those that share nodes follow each other.
    names = [name for name in rows.ROWS if name in names]
    print(plan(options, names), flush=True)
    if options.plan:
        return 0
    if not servers.RAFTMQ.exists():
        sys.exit(f'{servers.RAFTMQ} is not there: cargo build --release')
    options.work = options.work.absolute()
    held = take_directory(options.work)
    path = options.json or servers.ROOT / f'target/bench/{datetime.datetime.now():%Y%m%d-%H%M%S}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    report = Report(path, options)
    bench = servers.Bench(options, report, options.work)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    good = True
    try:
        if not options.untouched:
            bench.before = lambda: touch_memory(options.work)
        if any(rows.ROWS[name].needs_java for name in names):
            try:
                servers.java_kit(bench)
            except Exception as error:
                print(f'no Java client, no Apache: {error}', flush=True)
        for name in names:
            good &= run_row(bench, report, name)
    finally:
        bench.end_all()
        if not options.keep:
            shutil.rmtree(options.work, ignore_errors=True)
        held.close()
        report.save()
    print('\ngoals')
    report.print_goals(report.goals)
    for name in names:
        for failure in report.data['rows'][name]['failures']:
            print(f'  FAILED       {name}: {failure}')
    print(f'\n{path}' + (f', data in {options.work}' if options.keep else ''))
    return 0 if good else 1


def run_row(bench, report, name):
    """Runs one row; whether nothing in it failed."""
    row, options = rows.ROWS[name], bench.options
    budget = 2 * row.seconds(options) + 180
    print(f'\n{name}: {row.what} (at most {minutes(budget)})', flush=True)
    report.begin(name)
    began, error = time.monotonic(), None
    bench.deadline = began + budget
    try:
        if not row.keeps:
            bench.need_room(row.gib(options))
        if row.needs_java and not bench.classpath:
            raise servers.Failed('it needs the Java client and Apache, see above')
        row.run(bench)
    except servers.Failed as failed:
        error = str(failed)
    except Exception as failed:
        error = f'{type(failed).__name__}: {failed}'
        report.row.setdefault('traces', []).append(traceback.format_exc())
    finally:
        # Also what a failure has left behind.
        bench.end_all()
    if not error and time.monotonic() >= bench.deadline:
        error = f'its budget of {minutes(budget)} was used up: some of it was not measured'
    if error:
        print(f'  FAILED: {error}', flush=True)
    good = report.finish(time.monotonic() - began, error)
    report.print_goals(report.row['goals'])
    return good


if __name__ == '__main__':
    sys.exit(main())

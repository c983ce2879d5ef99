package raftmq;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;

/**
 * Stock RocketMQ clients as the tests and benchmarks drive them. The code uses only what 4.9.8 and every 5.x have in
 * common, and {@link Newer} the rest; each setting stays at the client's default unless an option says otherwise. Output: one JSON object per
 * line on standard output; times are nanoseconds since 1970.
 *
 * <pre>
 * send               --topic T --count N [--mode M,M] [--rate R] [--threads K] [--size B] [--tags A,B] [--keys P] [--batch B]
 *                    [--delays level:1,sec:1,ms:1500,at:2000,none] [--recall K] [--compress LZ4] [--stay] [--after G]
 * pinned             the same with a MessageQueueSelector by hash: --shards S
 * transactions       --topic T --group G --count N [--rate R] [--decisions D,D] [--undecided] [--settle-ms MS]: until stdin closes
 * request            --topic T --count N [--rate R] [--ttl-ms MS] [--mute-last] [--after G]
 * reply              --topic T --group G: until stdin closes
 * consume            --topic T [--group G] [--tags 'A || B'] [--broadcasting] [--orderly] [--until N] [--idle MS] [--quiet]
 *                    [--reject N] [--reject-level L] [--send-back L] [--max-reconsume N] [--properties]
 *                    [--pop] [--invisible-ms MS] [--hang] [--sql EXPRESSION] [--from first|last] [--from-ms MS]
 * lite-pull          --topic T [--group G] [--assign] [--commit-each] [--until N] [--idle MS]
 * rebalance          --topic T [--group G]: prints the assigned queues each time they change, until stdin closes
 * failover-producer  --topic T --modes sync,async,batch,oneway,pinned [--rate R]: one producer per mode, until stdin closes
 * failover-consumer  --topic T [--group G]: until stdin closes
 * latency            --topic T [--count N] [--rate R] [--size B] [--senders N]: send and end-to-end latency
 * throughput         --topic T [--threads 64] [--size 1024] [--seconds 30] [--producers 1] [--transactions]: sync sends
 * together           + SCENARIO OPTIONS + SCENARIO OPTIONS ...: several at once in one process
 * </pre>
 * Modes: sync, async, oneway, batch, pinned (selector), pinned-async, explicit (a MessageQueue chosen at the start).
 */
public final class Scenario {
    private Scenario() {
    }

    public static void main(String[] args) {
        int status = 1;
        try {
            if (args.length > 0 && args[0].equals("together")) {
                together(args);
            } else {
                run(args);
            }
            status = 0;
        } catch (Throwable e) {
            e.printStackTrace();
        }
        // Clients leave threads behind that are not daemons, most of all after a failed start.
        System.out.flush();
        System.exit(status);
    }

    /** Options behind a last "+" that stands alone before options belong to all. */
    private static void together(String[] args) throws Exception {
        List<List<String>> parts = new ArrayList<List<String>>();
        for (String arg : Arrays.asList(args).subList(1, args.length)) {
            if (arg.equals("+")) {
                parts.add(new ArrayList<String>());
            } else {
                parts.get(parts.size() - 1).add(arg);
            }
        }
        List<String> common = Collections.emptyList();
        if (parts.get(parts.size() - 1).get(0).startsWith("--")) {
            common = parts.remove(parts.size() - 1);
        }
        final AtomicReference<Throwable> failure = new AtomicReference<Throwable>();
        List<Thread> threads = new ArrayList<Thread>();
        for (List<String> part : parts) {
            part.addAll(common);
            final String[] scenario = part.toArray(new String[0]);
            threads.add(new Thread(scenario[0]) {
                @Override
                public void run() {
                    try {
                        Scenario.run(scenario);
                    } catch (Throwable e) {
                        failure.compareAndSet(null, e);
                    }
                }
            });
        }
        for (Thread thread : threads) {
            thread.start();
        }
        for (Thread thread : threads) {
            while (thread.isAlive() && failure.get() == null) {
                thread.join(50);
            }
        }
        if (failure.get() != null) {
            throw new IllegalStateException("one of several scenarios failed", failure.get());
        }
    }

    private static void run(String[] args) throws Exception {
        if (args.length == 0) {
            throw new IllegalArgumentException("name a scenario; see Scenario.java");
        }
        Options options = new Options(Arrays.copyOfRange(args, 1, args.length));
        switch (args[0]) {
            case "send":
                Send.run(options, options.text("mode", "sync"));
                break;
            case "pinned":
                Send.run(options, options.text("mode", "pinned"));
                break;
            case "failover-producer":
                Send.runUntilStdinCloses(options);
                break;
            case "consume":
            case "failover-consumer":
                Consume.run(options);
                break;
            case "rebalance":
                Consume.runRebalance(options);
                break;
            case "transactions":
                Transactions.run(options);
                break;
            case "request":
                Requests.request(options);
                break;
            case "reply":
                Requests.reply(options);
                break;
            case "lite-pull":
                LitePull.run(options);
                break;
            case "latency":
                Latency.run(options);
                break;
            case "throughput":
                Throughput.run(options);
                break;
            default:
                throw new IllegalArgumentException("no scenario named " + args[0]);
        }
    }
}

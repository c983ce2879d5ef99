package raftmq;

import java.util.Arrays;

/**
 * Stock RocketMQ clients as the tests and benchmarks drive them. The code uses only what 4.9.8 and every 5.x have in
 * common and leaves each setting at the client's default unless an option says otherwise. Output: one JSON object per
 * line on standard output; times are nanoseconds since 1970.
 *
 * <pre>
 * send               --topic T --count N [--mode M,M] [--rate R] [--threads K] [--size B] [--tags A,B] [--keys P] [--batch B]
 * pinned             the same with a MessageQueueSelector by hash: --shards S
 * consume            --topic T [--group G] [--tags 'A || B'] [--broadcasting] [--orderly] [--until N] [--idle MS] [--quiet]
 * rebalance          --topic T [--group G]: prints the assigned queues each time they change, until stdin closes
 * failover-producer  --topic T --modes sync,async,batch,oneway,pinned [--rate R]: one producer per mode, until stdin closes
 * failover-consumer  --topic T [--group G]: until stdin closes
 * latency            --topic T [--count N] [--rate R] [--size B]: send and end-to-end latency
 * throughput         --topic T [--threads 64] [--size 1024] [--seconds 30] [--producers 1]: sync sends
 * </pre>
 * Modes: sync, async, oneway, batch, pinned (selector), pinned-async, explicit (a MessageQueue chosen at the start).
 */
public final class Scenario {
    private Scenario() {
    }

    public static void main(String[] args) {
        int status = 1;
        try {
            run(args);
            status = 0;
        } catch (Throwable e) {
            e.printStackTrace();
        }
        // Clients leave threads behind that are not daemons, most of all after a failed start.
        System.out.flush();
        System.exit(status);
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

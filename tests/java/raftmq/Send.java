package raftmq;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Sends messages and prints one line for each send: its values (several for a batch), where they went, whether the
 * client called it a success, and when it began and ended. Bodies are those of {@link Body}. The n-th message gets the
 * n-th of --delays, in turn; with --recall K, every K-th is recalled as soon as it is acknowledged.
 */
final class Send {
    private final DefaultMQProducer producer;
    private final String mode;
    private final String topic;
    private final String prefix;
    private final String keys;
    private final String[] tags;
    private final int size;
    private final int batch;
    private final long shards;
    private final String[] delays;
    private final long recall;
    private final boolean quiet;
    private final AtomicLong next;
    private final AtomicLong ok = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private final AtomicLong outstanding = new AtomicLong();
    private volatile MessageQueue explicit;

    private Send(Options options, String mode) throws Exception {
        this.mode = mode;
        producer = Clients.producer(options, options.text("group", "it_producer") + "_" + mode.replace('-', '_'));
        topic = options.text("topic");
        prefix = options.text("prefix", "m") + "-" + mode;
        keys = options.text("keys", null);
        tags = options.text("tags", "").isEmpty() ? new String[0] : options.text("tags").split(",");
        size = (int) options.number("size", 0);
        batch = (int) options.number("batch", 4);
        shards = options.number("shards", 16);
        delays = options.text("delays", "").isEmpty() ? new String[0] : options.text("delays").split(",");
        recall = options.number("recall", 0);
        quiet = options.flag("quiet");
        next = new AtomicLong(options.number("first", 0));
    }

    /**
     * For each of the modes in turn: {@code --count} messages from {@code --threads} threads at {@code --rate} sends a
     * second (0: as fast as it goes). With --stay, producers end only when standard input closes; with --after GROUP, they
     * begin when a consumer of the group in this process has started.
     */
    static void run(Options options, String modes) throws Exception {
        List<Send> sends = new ArrayList<Send>();
        for (String mode : modes.split(",")) {
            sends.add(new Send(options, mode));
        }
        long count = options.number("count", 1);
        final double rate = options.number("rate", 0);
        final int threads = (int) options.number("threads", 1);
        boolean stay = options.flag("stay");
        String after = options.text("after", null);
        options.checkAllRead();
        if (after != null) {
            Consume.waitUntilReady(after);
        }
        for (final Send send : sends) {
            send.start();
            final long last = send.next.get() + count;
            List<Thread> running = new ArrayList<Thread>();
            for (int i = 0; i < threads; i++) {
                Thread thread = new Thread("send-" + i) {
                    @Override
                    public void run() {
                        send.loop(last, rate / threads);
                    }
                };
                thread.start();
                running.add(thread);
            }
            for (Thread thread : running) {
                thread.join();
            }
            if (stay) {
                Stdin.waitUntilClosed();
            }
            send.finish();
        }
    }

    /** One producer for each of {@code --modes}, each at {@code --rate} sends a second. */
    static void runUntilStdinCloses(Options options) throws Exception {
        List<Send> sends = new ArrayList<Send>();
        for (String mode : options.text("modes", "sync").split(",")) {
            sends.add(new Send(options, mode));
        }
        final double rate = options.number("rate", 50);
        options.checkAllRead();
        List<Thread> running = new ArrayList<Thread>();
        for (final Send send : sends) {
            send.start();
            Thread thread = new Thread("send-" + send.mode) {
                @Override
                public void run() {
                    send.loop(Long.MAX_VALUE, rate);
                }
            };
            running.add(thread);
        }
        // Before the first send: a test that has seen sends may kill the nameserver that is asked here.
        for (Send send : sends) {
            Routes.watch(send.mode, send.producer, send.topic);
        }
        for (Thread thread : running) {
            thread.start();
        }
        new Line("started").print();
        Stdin.waitUntilClosed();
        for (Send send : sends) {
            send.next.set(Long.MAX_VALUE);
        }
        for (Thread thread : running) {
            thread.join();
        }
        for (Send send : sends) {
            send.finish();
        }
    }

    private void start() throws Exception {
        Clients.start(producer);
        if (mode.equals("explicit")) {
            List<MessageQueue> queues = new ArrayList<MessageQueue>(producer.fetchPublishMessageQueues(topic));
            Collections.sort(queues);
            explicit = queues.get(0);
        }
    }

    /** Paced without catching up: a send that stalls delays the ones behind it instead of bunching them. */
    private void loop(long last, double rate) {
        long step = mode.equals("batch") ? batch : 1;
        long pause = rate > 0 ? (long) (1e9 / rate) : 0;
        long due = Clock.now();
        try {
            while (true) {
                long first = next.getAndUpdate(n -> n >= last ? n : n + step);
                if (first >= last) {
                    return;
                }
                one(first, (int) Math.min(step, last - first));
                due = Math.max(due + pause, Clock.now());
                if (pause > 0) {
                    Clock.sleepUntil(due);
                }
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private void one(long first, int count) {
        final List<Message> messages = new ArrayList<Message>();
        final List<String> values = new ArrayList<String>();
        for (long n = first; n < first + count; n++) {
            values.add(prefix + "-" + n);
            messages.add(message(n, values.get(values.size() - 1)));
        }
        final Message message = messages.get(0);
        final long start = Clock.now();
        SendCallback callback = new SendCallback() {
            @Override
            public void onSuccess(SendResult result) {
                report(values, result, null, start);
                outstanding.decrementAndGet();
            }

            @Override
            public void onException(Throwable error) {
                report(values, null, error, start);
                outstanding.decrementAndGet();
            }
        };
        SendResult result = null;
        try {
            switch (mode) {
                case "sync":
                    result = producer.send(message);
                    break;
                case "batch":
                    result = producer.send(messages);
                    break;
                case "oneway":
                    producer.sendOneway(message);
                    break;
                case "pinned":
                    result = producer.send(message, new SelectMessageQueueByHash(), Long.valueOf(first % shards));
                    break;
                case "explicit":
                    result = producer.send(message, explicit);
                    break;
                case "async":
                    outstanding.incrementAndGet();
                    producer.send(message, callback);
                    return;
                case "pinned-async":
                    outstanding.incrementAndGet();
                    producer.send(message, new SelectMessageQueueByHash(), Long.valueOf(first % shards), callback);
                    return;
                default:
                    throw new IllegalArgumentException("no send mode named " + mode);
            }
        } catch (Throwable error) {
            if (mode.endsWith("async")) {
                outstanding.decrementAndGet();
            }
            report(values, null, error, start);
            return;
        }
        report(values, result, null, start);
        if (recall > 0 && first % recall == 0) {
            recall(values.get(0), result);
        }
    }

    private void recall(String value, SendResult result) {
        long start = Clock.now();
        Line line = new Line("recall").put("value", value);
        try {
            String id = Newer.get().recall(producer, topic, Newer.get().recallHandle(result));
            line.put("ok", true).put("msg_id", id).put("same", id.equals(result.getMsgId()));
        } catch (Throwable error) {
            line.put("ok", false).put("error", text(error));
        }
        line.put("start", start).put("end", Clock.now()).print();
    }

    private Message message(long n, String value) {
        Message message = new Message(topic, Body.of(value, size));
        if (tags.length > 0) {
            message.setTags(tags[(int) (n % tags.length)]);
        }
        if (keys != null) {
            message.setKeys(keys + "-" + n);
        }
        if (delays.length > 0) {
            String[] delay = delays[(int) (n % delays.length)].split(":");
            if (delay[0].equals("level")) {
                message.setDelayTimeLevel(Integer.parseInt(delay[1]));
            } else if (!delay[0].equals("none")) {
                Newer.get().delay(message, delay[0], Long.parseLong(delay[1]));
            }
        }
        message.putUserProperty("n", String.valueOf(n));
        return message;
    }

    private void report(List<String> values, SendResult result, Throwable error, long start) {
        long end = Clock.now();
        (error == null ? ok : failed).addAndGet(values.size());
        if (quiet && error == null) {
            return;
        }
        Line line = new Line("send").put("mode", mode).put("topic", topic).put("values", values).put("ok", error == null);
        if (error != null) {
            line.put("error", text(error));
        }
        if (result != null) {
            line.put("status", result.getSendStatus().name())
                .put("broker", result.getMessageQueue().getBrokerName())
                .put("queue", result.getMessageQueue().getQueueId())
                .put("offset", result.getQueueOffset())
                .put("msg_id", result.getMsgId())
                .put("offset_msg_id", result.getOffsetMsgId());
        }
        line.put("start", start).put("end", end).print();
    }

    /** An error and its causes: the client's own text often names neither the address nor the reason. */
    static String text(Throwable error) {
        StringBuilder text = new StringBuilder(error.toString());
        for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
            text.append("; caused by ").append(cause);
        }
        return text.toString();
    }

    private void finish() throws InterruptedException {
        long deadline = Clock.now() + 20000000000L;
        while (outstanding.get() > 0 && Clock.now() < deadline) {
            Thread.sleep(5);
        }
        new Line("done").put("mode", mode).put("ok", ok.get()).put("failed", failed.get())
            .put("unanswered", outstanding.get()).print();
        producer.shutdown();
    }
}

package raftmq;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Sync sends from many threads for some seconds, after a warm-up that is not counted. With --transactions each is a half
 * message that is committed at once; the client does not wait for the commit. {@code committed} counts those of the
 * warm-up too.
 */
final class Throughput {
    private Throughput() {
    }

    private static final class Worker extends Thread {
        final Histogram histogram = new Histogram();
        long failed;
        long all;
        String error;
        private final DefaultMQProducer producer;
        private final String topic;
        private final byte[] body;
        private final long countFrom;
        private final AtomicBoolean stop;

        Worker(DefaultMQProducer producer, String topic, byte[] body, long countFrom, AtomicBoolean stop) {
            this.producer = producer;
            this.topic = topic;
            this.body = body;
            this.countFrom = countFrom;
            this.stop = stop;
        }

        @Override
        public void run() {
            while (!stop.get()) {
                long start = Clock.now();
                boolean ok = false;
                try {
                    SendResult result = send(new Message(topic, body));
                    ok = result.getSendStatus() == SendStatus.SEND_OK;
                    error = ok ? error : result.toString();
                    all += ok ? 1 : 0;
                } catch (Exception e) {
                    error = e.toString();
                }
                if (start < countFrom || stop.get()) {
                    continue;
                }
                if (ok) {
                    histogram.add(Clock.now() - start);
                } else {
                    failed++;
                }
            }
        }

        private SendResult send(Message message) throws Exception {
            return producer instanceof TransactionMQProducer
                ? producer.sendMessageInTransaction(message, null) : producer.send(message);
        }
    }

    private static final class Commits implements TransactionListener {
        @Override
        public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt message) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }
    }

    private static DefaultMQProducer producer(Options options, String group, boolean transactions) throws Exception {
        if (!transactions) {
            return Clients.producer(options, group);
        }
        TransactionMQProducer producer = new TransactionMQProducer(group);
        Clients.common(producer, options);
        Clients.sending(producer, options);
        producer.setTransactionListener(new Commits());
        return producer;
    }

    static void run(Options options) throws Exception {
        String topic = options.text("topic");
        int threads = (int) options.number("threads", 64);
        int size = (int) options.number("size", 1024);
        long seconds = options.number("seconds", 30);
        long warmUp = options.number("warm-up", 5);
        int producers = (int) options.number("producers", 1);
        boolean transactions = options.flag("transactions");
        List<DefaultMQProducer> started = new ArrayList<DefaultMQProducer>();
        for (int i = 0; i < producers; i++) {
            started.add(producer(options, "it_throughput_" + i, transactions));
        }
        options.checkAllRead();
        for (DefaultMQProducer producer : started) {
            producer.start();
        }
        byte[] body = new byte[size];
        for (int i = 0; i < size; i++) {
            body[i] = (byte) ('a' + i % 26);
        }
        AtomicBoolean stop = new AtomicBoolean();
        long countFrom = Clock.now() + warmUp * 1000000000L;
        List<Worker> workers = new ArrayList<Worker>();
        for (int i = 0; i < threads; i++) {
            Worker worker = new Worker(started.get(i % producers), topic, body, countFrom, stop);
            workers.add(worker);
            worker.start();
        }
        Clock.sleepUntil(countFrom + seconds * 1000000000L);
        stop.set(true);
        long took = Clock.now() - countFrom;
        Histogram all = new Histogram();
        long failed = 0;
        long committed = 0;
        String error = null;
        for (Worker worker : workers) {
            worker.join();
            all.addAll(worker.histogram);
            failed += worker.failed;
            committed += worker.all;
            error = worker.error == null ? error : worker.error;
        }
        Line line = new Line("throughput").put("threads", threads).put("producers", producers).put("size", size)
            .put("seconds", took / 1e9).put("sent", all.count()).put("failed", failed)
            .put("per_s", all.count() * 1e9 / took);
        all.put(line, "");
        if (transactions) {
            line.put("committed", committed);
        }
        if (error != null) {
            line.put("error", error);
        }
        line.print();
        for (DefaultMQProducer producer : started) {
            producer.shutdown();
        }
    }
}

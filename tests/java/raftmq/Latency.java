package raftmq;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * One producer and one push consumer in this process; each message carries the time at which it was due, so a stall
 * counts against every message that waited for it. Several threads send in turn, so that one answer is not waited for
 * before the next message is due. Prints the latency of sends and from due to the listener.
 */
final class Latency {
    private Latency() {
    }

    /** Sends each {@code senders}-th message, from {@code first} on, when it is due. */
    private static final class Sender extends Thread {
        final Histogram histogram = new Histogram();
        long failed;
        private final DefaultMQProducer producer;
        private final String topic;
        private final Plan plan;
        private final long first;
        private final CountDownLatch arrived;

        Sender(DefaultMQProducer producer, String topic, Plan plan, long first, CountDownLatch arrived) {
            this.producer = producer;
            this.topic = topic;
            this.plan = plan;
            this.first = first;
            this.arrived = arrived;
        }

        @Override
        public void run() {
            for (long n = first; n < plan.warmUp + plan.count; n += plan.senders) {
                long due = plan.start + (long) (n * 1e9 / plan.rate);
                ByteBuffer body = ByteBuffer.allocate(Math.max(plan.size, 24));
                body.putLong(plan.run).putLong(n).putLong(due);
                try {
                    Clock.sleepUntil(due);
                    producer.send(new Message(topic, body.array()));
                    if (n >= plan.warmUp) {
                        histogram.add(Clock.now() - due);
                    }
                } catch (Exception e) {
                    failed++;
                    arrived.countDown();
                }
            }
        }
    }

    /** What is sent, and when. */
    private static final class Plan {
        /** In each message, to know those of this run. */
        final long run = System.nanoTime();
        final long count;
        /** Messages before those that are counted. */
        final long warmUp;
        /** Messages a second. */
        final double rate;
        /** Bytes of a body. */
        final int size;
        final int senders;
        long start;

        Plan(Options options) {
            count = options.number("count", 5000);
            warmUp = options.number("warm-up", Math.min(1000, count));
            rate = options.number("rate", 500);
            size = (int) options.number("size", 1024);
            senders = (int) options.number("senders", 16);
        }
    }

    static void run(Options options) throws Exception {
        String topic = options.text("topic");
        final Plan plan = new Plan(options);
        DefaultMQProducer producer = Clients.producer(options, "it_latency_producer");
        DefaultMQPushConsumer consumer = Clients.consumer(options);
        options.checkAllRead();

        final Histogram endToEnd = new Histogram();
        final CountDownLatch arrived = new CountDownLatch((int) (plan.count + plan.warmUp));
        consumer.registerMessageListener(new MessageListenerConcurrently() {
            @Override
            public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages, ConsumeConcurrentlyContext context) {
                long now = Clock.now();
                for (MessageExt message : messages) {
                    ByteBuffer body = ByteBuffer.wrap(message.getBody());
                    if (body.getLong() != plan.run) {
                        continue;
                    }
                    long number = body.getLong();
                    if (number >= plan.warmUp && message.getReconsumeTimes() == 0) {
                        synchronized (endToEnd) {
                            endToEnd.add(now - body.getLong());
                        }
                    }
                    arrived.countDown();
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
        });
        consumer.start();
        producer.start();
        int queues = producer.fetchPublishMessageQueues(topic).size();
        long deadline = Clock.now() + 30000000000L;
        while (assigned(consumer, topic) < queues && Clock.now() < deadline) {
            Thread.sleep(20);
        }
        plan.start = Clock.now();
        List<Sender> senders = new ArrayList<Sender>();
        for (int i = 0; i < plan.senders; i++) {
            Sender sender = new Sender(producer, topic, plan, i, arrived);
            senders.add(sender);
            sender.start();
        }
        Histogram sends = new Histogram();
        long failed = 0;
        for (Sender sender : senders) {
            sender.join();
            sends.addAll(sender.histogram);
            failed += sender.failed;
        }
        boolean complete = arrived.await(30, TimeUnit.SECONDS);
        Line line = new Line("latency").put("sent", plan.count).put("failed", failed).put("complete", complete)
            .put("rate", plan.rate).put("size", plan.size).put("senders", plan.senders);
        sends.put(line, "send_");
        synchronized (endToEnd) {
            endToEnd.put(line, "end_to_end_").put("received", endToEnd.count());
        }
        line.print();
        producer.shutdown();
        consumer.shutdown();
    }

    private static int assigned(DefaultMQPushConsumer consumer, String topic) {
        int assigned = 0;
        for (org.apache.rocketmq.common.message.MessageQueue queue
            : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
            assigned += queue.getTopic().equals(topic) ? 1 : 0;
        }
        return assigned;
    }
}

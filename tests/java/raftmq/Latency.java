package raftmq;

import java.nio.ByteBuffer;
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
 * counts against every message that waited for it. Prints the latency of sends and from due to the listener.
 */
final class Latency {
    private Latency() {
    }

    static void run(Options options) throws Exception {
        String topic = options.text("topic");
        final long count = options.number("count", 5000);
        final long warmUp = options.number("warm-up", Math.min(1000, count));
        double rate = options.number("rate", 500);
        int size = (int) options.number("size", 1024);
        DefaultMQProducer producer = Clients.producer(options, "it_latency_producer");
        DefaultMQPushConsumer consumer = Clients.consumer(options);
        options.checkAllRead();

        final Histogram sends = new Histogram();
        final Histogram endToEnd = new Histogram();
        final long run = System.nanoTime();
        final CountDownLatch arrived = new CountDownLatch((int) (count + warmUp));
        consumer.registerMessageListener(new MessageListenerConcurrently() {
            @Override
            public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages, ConsumeConcurrentlyContext context) {
                long now = Clock.now();
                for (MessageExt message : messages) {
                    ByteBuffer body = ByteBuffer.wrap(message.getBody());
                    if (body.getLong() != run) {
                        continue;
                    }
                    long number = body.getLong();
                    if (number >= warmUp && message.getReconsumeTimes() == 0) {
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
        long due = Clock.now();
        long failed = 0;
        for (long n = 0; n < count + warmUp; n++) {
            due += (long) (1e9 / rate);
            Clock.sleepUntil(due);
            ByteBuffer body = ByteBuffer.allocate(Math.max(size, 24));
            body.putLong(run).putLong(n).putLong(due);
            try {
                producer.send(new Message(topic, body.array()));
                if (n >= warmUp) {
                    sends.add(Clock.now() - due);
                }
            } catch (Exception e) {
                failed++;
                arrived.countDown();
            }
        }
        boolean complete = arrived.await(30, TimeUnit.SECONDS);
        Line line = new Line("latency").put("sent", count).put("failed", failed).put("complete", complete)
            .put("rate", rate).put("size", size);
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

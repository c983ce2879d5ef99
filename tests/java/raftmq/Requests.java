package raftmq;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Request and reply. A reply to V is "re: V"; values that end in "-mute" are not replied to. */
final class Requests {
    private static final long PATIENCE_MS = 30000;

    private Requests() {
    }

    /**
     * Sends {@code --count} requests one after another, every second one with a callback, and the last one mute if asked. With
     * --after GROUP it begins when a replier of the group in this process has its queues.
     */
    static void request(Options options) throws Exception {
        DefaultMQProducer producer = Clients.producer(options, options.text("group", "it_requests"));
        final String topic = options.text("topic");
        String prefix = options.text("prefix", "m") + "-request-";
        long count = options.number("count", 1);
        double rate = options.number("rate", 0);
        long ttl = options.number("ttl-ms", 5000);
        boolean mute = options.flag("mute-last");
        String after = options.text("after", null);
        options.checkAllRead();
        if (after != null) {
            Consume.waitUntilReady(after);
        }
        Clients.start(producer);
        new Line("started").print();
        long due = Clock.now();
        for (long n = 0; n < count && !Stdin.isClosed(); n++) {
            boolean last = mute && n + 1 == count;
            final String value = prefix + n + (last ? "-mute" : "");
            Message message = new Message(topic, value.getBytes(StandardCharsets.UTF_8));
            final long start = Clock.now();
            if (n % 2 == 0) {
                try {
                    report(value, producer.request(message, last ? 1500 : ttl), null, start);
                } catch (Throwable error) {
                    report(value, null, error, start);
                }
            } else {
                asynchronous(producer, message, value, last ? 1500 : ttl);
            }
            if (rate > 0) {
                due = Math.max(due + (long) (1e9 / rate), Clock.now());
                Clock.sleepUntil(due);
            }
        }
        new Line("done").print();
        producer.shutdown();
    }

    private static void asynchronous(DefaultMQProducer producer, Message message, final String value, long ttl)
            throws InterruptedException {
        final long start = Clock.now();
        final CountDownLatch answered = new CountDownLatch(1);
        final AtomicBoolean first = new AtomicBoolean(true);
        try {
            producer.request(message, new RequestCallback() {
                @Override
                public void onSuccess(Message reply) {
                    // Clients up to 5.5.0 call it when the request has been sent, too; the reply may be there by then.
                    if (reply != null && first.compareAndSet(true, false)) {
                        report(value, reply, null, start);
                        answered.countDown();
                    }
                }

                @Override
                public void onException(Throwable error) {
                    report(value, null, error, start);
                    answered.countDown();
                }
            }, ttl);
        } catch (Throwable error) {
            report(value, null, error, start);
            answered.countDown();
        }
        if (!answered.await(PATIENCE_MS, TimeUnit.MILLISECONDS)) {
            report(value, null, new IllegalStateException("the callback was never called"), start);
        }
    }

    private static void report(String value, Message reply, Throwable error, long start) {
        Line line = new Line("request").put("value", value).put("ok", error == null);
        if (error != null) {
            line.put("error", Send.text(error));
        }
        if (reply != null) {
            line.put("reply", new String(reply.getBody(), StandardCharsets.UTF_8));
        }
        line.put("start", start).put("end", Clock.now()).print();
    }

    private static int held(DefaultMQPushConsumer consumer, String topic) {
        int held = 0;
        for (MessageQueue queue
            : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
            held += queue.getTopic().equals(topic) ? 1 : 0;
        }
        return held;
    }

    /** Replies until standard input closes. */
    static void reply(Options options) throws Exception {
        DefaultMQPushConsumer consumer = Clients.consumer(options);
        final DefaultMQProducer producer = Clients.producer(options, options.text("group") + "_replies");
        options.checkAllRead();
        Clients.start(producer);
        consumer.registerMessageListener(new MessageListenerConcurrently() {
            @Override
            public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages, ConsumeConcurrentlyContext context) {
                for (MessageExt message : messages) {
                    String value = Body.value(message.getBody());
                    Line line = new Line("replied").put("value", value)
                        .put("client", message.getProperty("REPLY_TO_CLIENT")).put("ttl", message.getProperty("TTL"));
                    if (!value.endsWith("-mute")) {
                        try {
                            byte[] body = ("re: " + value).getBytes(StandardCharsets.UTF_8);
                            producer.send(MessageUtil.createReplyMessage(message, body), 3000);
                            line.put("ok", true);
                        } catch (Throwable error) {
                            line.put("ok", false).put("error", Send.text(error));
                        }
                    }
                    line.print();
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
        });
        Clients.start(consumer);
        new Line("started").print();
        String topic = options.text("topic");
        int queues = consumer.fetchSubscribeMessageQueues(topic).size();
        while (!Stdin.isClosed() && held(consumer, topic) < queues) {
            Thread.sleep(20);
        }
        Consume.isReady(consumer.getConsumerGroup());
        Stdin.waitUntilClosed();
        consumer.shutdown();
        producer.shutdown();
        new Line("done").print();
    }
}

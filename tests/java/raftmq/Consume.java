package raftmq;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.impl.consumer.ProcessQueue;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * A push consumer that prints each delivery, and its assigned queues each time they change. It ends after --until
 * deliveries, after --idle milliseconds without one, or when standard input closes, whichever comes first.
 * --reject N answers RECONSUME_LATER to the first N attempts at each message.
 */
final class Consume {
    private final boolean quiet;
    private final long until;
    private final int reject;
    private final AtomicLong count = new AtomicLong();
    private final CountDownLatch stop = new CountDownLatch(1);
    private volatile long first;
    private volatile long last = Clock.now();

    private Consume(Options options) {
        quiet = options.flag("quiet");
        until = options.number("until", Long.MAX_VALUE);
        reject = (int) options.number("reject", 0);
    }

    static void run(Options options) throws Exception {
        Consume consume = new Consume(options);
        DefaultMQPushConsumer consumer = Clients.consumer(options);
        long idle = options.number("idle", Long.MAX_VALUE / 1000000L) * 1000000L;
        consume.listen(consumer, options.flag("orderly"));
        options.checkAllRead();
        consume.watch(consumer, options.text("topic"), idle);
        long seconds = Math.max(consume.last - consume.first, 1);
        new Line("done").put("count", consume.count.get()).put("first", consume.first).put("last", consume.last)
            .put("per_s", consume.count.get() * 1e9 / seconds).print();
    }

    static void runRebalance(Options options) throws Exception {
        DefaultMQPushConsumer consumer = Clients.consumer(options);
        Consume consume = new Consume(new Options(new String[] {"--quiet"}));
        consume.listen(consumer, false);
        options.checkAllRead();
        consume.watch(consumer, options.text("topic"), Long.MAX_VALUE);
        new Line("done").put("count", consume.count.get()).print();
    }

    private void watch(DefaultMQPushConsumer consumer, String topic, long idle) throws Exception {
        consumer.start();
        last = Clock.now();
        new Line("started").put("client", consumer.buildMQClientId()).print();
        Stdin.whenClosed(new Runnable() {
            @Override
            public void run() {
                stop.countDown();
            }
        });
        TreeSet<String> assigned = null;
        while (stop.getCount() > 0 && Clock.now() - last < idle) {
            TreeSet<String> now = new TreeSet<String>();
            for (MessageQueue queue
                : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
                if (queue.getTopic().equals(topic)) {
                    now.add(queue.getBrokerName() + "/" + queue.getQueueId());
                }
            }
            if (!now.equals(assigned)) {
                assigned = now;
                new Line("assigned").put("queues", now).put("at", Clock.now()).print();
            }
            stop.await(20, TimeUnit.MILLISECONDS);
        }
        // shutdown persists offsets without waiting for listeners in progress, so what was consumed would come again.
        long patience = Clock.now() + 2000000000L;
        while (unconsumed(consumer) > 0 && Clock.now() < patience) {
            Thread.sleep(5);
        }
        consumer.shutdown();
    }

    private static long unconsumed(DefaultMQPushConsumer consumer) {
        long messages = 0;
        for (ProcessQueue queue
            : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().values()) {
            messages += queue.getMsgCount().get();
        }
        return messages;
    }

    /** One listener for each kind: a class that implements both interfaces is taken for an orderly one. */
    private void listen(DefaultMQPushConsumer consumer, boolean orderly) {
        if (orderly) {
            consumer.registerMessageListener(new MessageListenerOrderly() {
                @Override
                public ConsumeOrderlyStatus consumeMessage(List<MessageExt> messages, ConsumeOrderlyContext context) {
                    return take(messages, context.getMessageQueue())
                        ? ConsumeOrderlyStatus.SUCCESS : ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                }
            });
        } else {
            consumer.registerMessageListener(new MessageListenerConcurrently() {
                @Override
                public ConsumeConcurrentlyStatus consumeMessage(
                        List<MessageExt> messages, ConsumeConcurrentlyContext context) {
                    return take(messages, context.getMessageQueue())
                        ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
            });
        }
    }

    private boolean take(List<MessageExt> messages, MessageQueue queue) {
        boolean accepted = true;
        for (MessageExt message : messages) {
            long at = Clock.now();
            accepted &= message.getReconsumeTimes() >= reject;
            if (!quiet) {
                String body = new String(message.getBody(), StandardCharsets.UTF_8);
                int bar = body.indexOf('|');
                new Line("deliver").put("value", bar < 0 ? body : body.substring(0, bar))
                    .put("topic", message.getTopic()).put("broker", queue.getBrokerName())
                    .put("queue", message.getQueueId()).put("offset", message.getQueueOffset())
                    .put("tags", message.getTags()).put("keys", message.getKeys()).put("msg_id", message.getMsgId())
                    .put("size", message.getBody().length).put("attempt", message.getReconsumeTimes())
                    .put("stored_ms", message.getStoreTimestamp()).put("at", at).print();
            }
            if (count.getAndIncrement() == 0) {
                first = at;
            }
            last = at;
        }
        if (count.get() >= until) {
            stop.countDown();
        }
        return accepted;
    }
}

package raftmq;

import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
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
 * --reject N answers RECONSUME_LATER to the first N attempts at each message, with the delay level --reject-level if given;
 * --send-back L instead gives a first attempt back with delay level L by an explicit call. --properties prints those of
 * each message too. With --hang the listener never comes back, so that nothing is acknowledged.
 */
final class Consume {
    /** By group: opened when a consumer of it in this process can be sent to. */
    private static final ConcurrentHashMap<String, CountDownLatch> READY = new ConcurrentHashMap<String, CountDownLatch>();

    private final boolean quiet;
    private final long until;
    private final int reject;
    private final int rejectLevel;
    private final boolean sendsBack;
    private final int sendBackLevel;
    private final boolean properties;
    private final boolean hang;
    private final DefaultMQPushConsumer consumer;
    private final String group;
    private final AtomicLong count = new AtomicLong();
    private final CountDownLatch stop = new CountDownLatch(1);
    private volatile long first;
    private volatile long last = Clock.now();

    private Consume(Options options, DefaultMQPushConsumer consumer) {
        this.consumer = consumer;
        group = consumer.getConsumerGroup();
        rejectLevel = (int) options.number("reject-level", 0);
        sendsBack = options.text("send-back", null) != null;
        sendBackLevel = (int) options.number("send-back", 0);
        properties = options.flag("properties");
        hang = options.flag("hang");
        quiet = options.flag("quiet");
        until = options.number("until", Long.MAX_VALUE);
        reject = (int) options.number("reject", 0);
    }

    private static CountDownLatch ready(String group) {
        return READY.computeIfAbsent(group, name -> new CountDownLatch(1));
    }

    static void isReady(String group) {
        ready(group).countDown();
    }

    static void waitUntilReady(String group) throws InterruptedException {
        ready(group).await();
    }

    static void run(Options options) throws Exception {
        DefaultMQPushConsumer consumer = Clients.consumer(options);
        Consume consume = new Consume(options, consumer);
        boolean pop = options.flag("pop");
        long idle = options.number("idle", Long.MAX_VALUE / 1000000L) * 1000000L;
        consume.listen(options.flag("orderly"));
        options.checkAllRead();
        consume.watch(options.text("topic"), pop, idle);
        long seconds = Math.max(consume.last - consume.first, 1);
        new Line("done").put("count", consume.count.get()).put("first", consume.first).put("last", consume.last)
            .put("per_s", consume.count.get() * 1e9 / seconds).print();
    }

    static void runRebalance(Options options) throws Exception {
        DefaultMQPushConsumer consumer = Clients.consumer(options);
        Consume consume = new Consume(new Options(new String[] {"--quiet"}), consumer);
        consume.listen(false);
        options.checkAllRead();
        consume.watch(options.text("topic"), false, Long.MAX_VALUE);
        new Line("done").put("count", consume.count.get()).print();
    }

    private void watch(String topic, boolean pop, long idle) throws Exception {
        Clients.start(consumer);
        last = Clock.now();
        isReady(group);
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
            if (pop) {
                now.addAll(Newer.get().popped(consumer, topic));
            }
            for (MessageQueue queue
                : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
                if (queue.getTopic().equals(topic)) {
                    now.add(queue.getBrokerName() + "/" + queue.getQueueId());
                }
            }
            if (!now.equals(assigned)) {
                assigned = now;
                new Line("assigned").put("topic", topic).put("group", group).put("queues", now).put("at", Clock.now())
                    .print();
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
    private void listen(boolean orderly) {
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
                    context.setDelayLevelWhenNextConsume(rejectLevel);
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
                delivery(message, queue.getBrokerName(), group, properties, at).print();
            }
            if (sendsBack && message.getReconsumeTimes() == 0) {
                sendBack(message);
            }
            if (count.getAndIncrement() == 0) {
                first = at;
            }
            last = at;
        }
        if (count.get() >= until) {
            stop.countDown();
        }
        if (hang) {
            LockSupport.park();
        }
        return accepted;
    }

    private void sendBack(MessageExt message) {
        Line line = new Line("sent_back").put("value", Body.value(message.getBody()));
        try {
            consumer.sendMessageBack(message, sendBackLevel);
            line.put("ok", true);
        } catch (Exception error) {
            line.put("ok", false).put("error", Send.text(error));
        }
        line.print();
    }

    static Line delivery(MessageExt message, String broker, String group, boolean properties, long at) {
        Line line = new Line("deliver").put("value", Body.value(message.getBody())).put("group", group)
            .put("topic", message.getTopic()).put("broker", broker).put("queue", message.getQueueId())
            .put("offset", message.getQueueOffset()).put("tags", message.getTags()).put("keys", message.getKeys())
            .put("msg_id", message.getMsgId()).put("size", message.getBody().length)
            .put("intact", Body.isIntact(message.getBody())).put("attempt", message.getReconsumeTimes())
            .put("born_ms", message.getBornTimestamp()).put("stored_ms", message.getStoreTimestamp());
        if (properties) {
            line.put("properties", message.getProperties());
        }
        return line.put("at", at);
    }
}

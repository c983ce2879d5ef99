package raftmq;

import java.util.Collection;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * A lite pull consumer that prints what it polls and ends after --until messages, after --idle milliseconds without one or
 * when standard input closes. --assign takes all queues instead of a share, and starts at their beginning;
 * --commit-each commits after each poll instead of every 5 s.
 */
final class LitePull {
    private LitePull() {
    }

    @SuppressWarnings("deprecation")
    static void run(Options options) throws Exception {
        String topic = options.text("topic");
        String group = options.text("group", "it_lite_pull");
        String tags = options.text("tags", "*");
        boolean assign = options.flag("assign");
        boolean commitEach = options.flag("commit-each");
        boolean properties = options.flag("properties");
        long until = options.number("until", Long.MAX_VALUE);
        long idle = options.number("idle", Long.MAX_VALUE / 1000000L) * 1000000L;
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group);
        Clients.common(consumer, options);
        String from = options.text("from", null);
        options.checkAllRead();
        if (from != null) {
            consumer.setConsumeFromWhere(ConsumeFromWhere.valueOf("CONSUME_FROM_" + from.toUpperCase() + "_OFFSET"));
        }
        consumer.setAutoCommit(!commitEach);
        if (!assign) {
            consumer.subscribe(topic, tags);
        }
        Clients.start(consumer);
        if (assign) {
            Collection<MessageQueue> queues = consumer.fetchMessageQueues(topic);
            consumer.assign(queues);
            for (MessageQueue queue : queues) {
                consumer.seekToBegin(queue);
            }
        }
        new Line("started").print();
        long count = 0;
        long last = Clock.now();
        while (count < until && Clock.now() - last < idle && !Stdin.isClosed()) {
            for (MessageExt message : consumer.poll(200)) {
                last = Clock.now();
                Consume.delivery(message, message.getBrokerName(), group, properties, last).print();
                count++;
            }
            if (commitEach) {
                consumer.commitSync();
            }
        }
        if (!commitEach) {
            // what the timer of 5 s has not committed yet
            consumer.commitSync();
        }
        consumer.shutdown();
        new Line("done").put("count", count).print();
    }
}

package raftmq;

import java.util.Set;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/** What only 5.x clients can do. The implementation, raftmq.Five, lies in tests/java5 and is compiled against 5.x only. */
abstract class Newer {
    private static final Newer FIVE = load();

    private static Newer load() {
        try {
            return (Newer) Class.forName("raftmq.Five").getDeclaredConstructor().newInstance();
        } catch (ClassNotFoundException e) {
            return null;
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
    }

    /** For an option that 4.x does not have. */
    static Newer get() {
        if (FIVE == null) {
            throw new IllegalArgumentException("an option that this version of the client does not have");
        }
        return FIVE;
    }

    /** {@code kind}: sec and ms are delays, at is a time from now on as the difference to it. */
    abstract void delay(Message message, String kind, long amount);

    /** Of a send that can be recalled, else null. */
    abstract String recallHandle(SendResult result);

    /** The id of the recalled message. */
    abstract String recall(DefaultMQProducer producer, String topic, String handle) throws Exception;

    /** LZ4, ZSTD or ZLIB. */
    abstract void compress(DefaultMQProducer producer, String type);

    abstract void namespaceV2(ClientConfig client, String namespace);

    /** The broker assigns: queues, or with mode POP whole brokers. */
    abstract void leaveRebalanceToBroker(DefaultMQPushConsumer consumer);

    /** Between 5 s and 5 min. */
    abstract void popInvisible(DefaultMQPushConsumer consumer, long milliseconds);

    /** What a consumer pops from now, as broker/queue; queue -1 is all of a broker. */
    abstract Set<String> popped(DefaultMQPushConsumer consumer, String topic);
}

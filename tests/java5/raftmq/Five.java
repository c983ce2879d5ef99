package raftmq;

import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** {@link Newer} for clients from 5.3.3 on. */
final class Five extends Newer {
    @Override
    void delay(Message message, String kind, long amount) {
        switch (kind) {
            case "sec":
                message.setDelayTimeSec(amount);
                break;
            case "ms":
                message.setDelayTimeMs(amount);
                break;
            case "at":
                message.setDeliverTimeMs(System.currentTimeMillis() + amount);
                break;
            default:
                throw new IllegalArgumentException("no delay named " + kind);
        }
    }

    @Override
    String recallHandle(SendResult result) {
        return result.getRecallHandle();
    }

    @Override
    String recall(DefaultMQProducer producer, String topic, String handle) throws Exception {
        return producer.recallMessage(topic, handle);
    }

    @Override
    void compress(DefaultMQProducer producer, String type) {
        producer.setCompressType(CompressionType.valueOf(type));
    }

    @Override
    void namespaceV2(ClientConfig client, String namespace) {
        client.setNamespaceV2(namespace);
    }

    @Override
    void leaveRebalanceToBroker(DefaultMQPushConsumer consumer) {
        consumer.setClientRebalance(false);
    }

    @Override
    void popInvisible(DefaultMQPushConsumer consumer, long milliseconds) {
        consumer.setPopInvisibleTime(milliseconds);
    }

    @Override
    Set<String> popped(DefaultMQPushConsumer consumer, String topic) {
        Set<String> popped = new TreeSet<String>();
        for (MessageQueue queue
            : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getPopProcessQueueTable().keySet()) {
            if (queue.getTopic().equals(topic)) {
                popped.add(queue.getBrokerName() + "/" + queue.getQueueId());
            }
        }
        return popped;
    }
}

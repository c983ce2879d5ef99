package raftmq;

import java.lang.reflect.Method;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.remoting.RPCHook;

/** Builds clients; a setting stays at the client's default unless an option names it. */
final class Clients {
    private Clients() {
    }

    static DefaultMQProducer producer(Options options, String group) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(group, (RPCHook) null, options.flag("trace"), null);
        common(producer, options);
        sending(producer, options);
        return producer;
    }

    static void sending(DefaultMQProducer producer, Options options) {
        if (options.text("send-timeout-ms", null) != null) {
            producer.setSendMsgTimeout((int) options.number("send-timeout-ms", 0));
        }
        if (options.text("retries", null) != null) {
            producer.setRetryTimesWhenSendFailed((int) options.number("retries", 0));
            producer.setRetryTimesWhenSendAsyncFailed((int) options.number("retries", 0));
        }
        if (options.text("compress", null) != null) {
            Newer.get().compress(producer, options.text("compress"));
        }
    }

    static DefaultMQPushConsumer consumer(Options options) throws Exception {
        String group = options.text("group", "it_consumer");
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group, options.flag("trace"), null);
        common(consumer, options);
        String from = options.text("from", null);
        if (from != null) {
            consumer.setConsumeFromWhere(ConsumeFromWhere.valueOf("CONSUME_FROM_" + from.toUpperCase() + "_OFFSET"));
        }
        if (options.text("from-ms", null) != null) {
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_TIMESTAMP);
            consumer.setConsumeTimestamp(UtilAll.timeMillisToHumanString3(options.number("from-ms", 0)));
        }
        if (options.flag("broadcasting")) {
            broadcast(consumer);
        }
        if (options.text("max-reconsume", null) != null) {
            consumer.setMaxReconsumeTimes((int) options.number("max-reconsume", 0));
        }
        if (options.flag("pop")) {
            Newer.get().leaveRebalanceToBroker(consumer);
        }
        if (options.text("invisible-ms", null) != null) {
            Newer.get().popInvisible(consumer, options.number("invisible-ms", 0));
        }
        String sql = options.text("sql", null);
        if (sql == null) {
            consumer.subscribe(options.text("topic"), options.text("tags", "*"));
        } else {
            consumer.subscribe(options.text("topic"), MessageSelector.bySql(sql));
        }
        return consumer;
    }

    @SuppressWarnings("deprecation")
    static void common(ClientConfig client, Options options) {
        client.setNamesrvAddr(options.nameServers());
        if (options.text("poll-ms", null) != null) {
            client.setPollNameServerInterval((int) options.number("poll-ms", 0));
        }
        if (options.text("heartbeat-ms", null) != null) {
            client.setHeartbeatBrokerInterval((int) options.number("heartbeat-ms", 0));
        }
        if (options.text("vip", null) != null) {
            client.setVipChannelEnabled(options.flag("vip"));
        }
        if (options.text("namespace", null) != null) {
            client.setNamespace(options.text("namespace"));
        }
        if (options.text("namespace-v2", null) != null) {
            Newer.get().namespaceV2(client, options.text("namespace-v2"));
        }
        if (options.text("unit", null) != null) {
            client.setUnitName(options.text("unit"));
        }
    }

    // Clients of one process share its connections, and start one after another here. Of two that send a heartbeat at once, the
    // client drops one (MQClientInstance.lockHeartbeat): the brokers hear of its consumer with the next, up to 30 s later, and
    // until then it gets no queues.

    static synchronized void start(DefaultMQPushConsumer consumer) throws MQClientException {
        consumer.start();
    }

    static synchronized void start(DefaultLitePullConsumer consumer) throws MQClientException {
        consumer.start();
    }

    static synchronized void start(DefaultMQProducer producer) throws MQClientException {
        producer.start();
    }

    /**
     * Waits until the nameserver tells where a topic is. A producer that asks for the first time in a process whose machine has
     * no time for it gives up after 3 s, and then sends by the route of TBW102, to queues that the topic does not have.
     */
    static void awaitRoute(DefaultMQProducer producer, String topic) throws Exception {
        for (int tries = 1;; tries++) {
            try {
                producer.fetchPublishMessageQueues(topic);
                return;
            } catch (MQClientException e) {
                if (tries == 5) {
                    throw e;
                }
                Thread.sleep(200);
            }
        }
    }

    /** MessageModel lives in another package since 5.0, so it is found by the setter's parameter type. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    private static void broadcast(DefaultMQPushConsumer consumer) throws Exception {
        for (Method method : DefaultMQPushConsumer.class.getMethods()) {
            if (method.getName().equals("setMessageModel")) {
                method.invoke(consumer, Enum.valueOf((Class) method.getParameterTypes()[0], "BROADCASTING"));
                return;
            }
        }
        throw new NoSuchMethodException("setMessageModel");
    }
}

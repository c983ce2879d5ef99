package raftmq;

import java.lang.reflect.Method;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;

/** Builds clients; a setting stays at the client's default unless an option names it. */
final class Clients {
    private Clients() {
    }

    static DefaultMQProducer producer(Options options, String group) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(group);
        common(producer, options);
        if (options.text("send-timeout-ms", null) != null) {
            producer.setSendMsgTimeout((int) options.number("send-timeout-ms", 0));
        }
        if (options.text("retries", null) != null) {
            producer.setRetryTimesWhenSendFailed((int) options.number("retries", 0));
            producer.setRetryTimesWhenSendAsyncFailed((int) options.number("retries", 0));
        }
        return producer;
    }

    static DefaultMQPushConsumer consumer(Options options) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(options.text("group", "it_consumer"));
        common(consumer, options);
        String from = options.text("from", null);
        if (from != null) {
            consumer.setConsumeFromWhere(ConsumeFromWhere.valueOf("CONSUME_FROM_" + from.toUpperCase() + "_OFFSET"));
        }
        if (options.flag("broadcasting")) {
            broadcast(consumer);
        }
        consumer.subscribe(options.text("topic"), options.text("tags", "*"));
        return consumer;
    }

    private static void common(ClientConfig client, Options options) {
        client.setNamesrvAddr(options.nameServers());
        if (options.text("poll-ms", null) != null) {
            client.setPollNameServerInterval((int) options.number("poll-ms", 0));
        }
        if (options.text("vip", null) != null) {
            client.setVipChannelEnabled(options.flag("vip"));
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

package raftmq;

import java.lang.reflect.Method;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.impl.producer.DefaultMQProducerImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Prints where a producer would send to now, each time that changes. Clients ask for routes every 30 s, each producer for
 * itself: its instance name is made unique when it starts.
 */
final class Routes {
    private Routes() {
    }

    static void watch(final String mode, final DefaultMQProducer producer, final String topic) throws Exception {
        final MQClientInstance client = client(producer.getDefaultMQProducerImpl());
        final TreeMap<String, String> known = new TreeMap<String, String>();
        for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
            known.put(queue.getBrokerName(), "");
        }
        Thread thread = new Thread("routes-" + mode) {
            @Override
            public void run() {
                try {
                    while (true) {
                        boolean changed = false;
                        for (Map.Entry<String, String> broker : known.entrySet()) {
                            String address = String.valueOf(client.findBrokerAddressInPublish(broker.getKey()));
                            changed |= !address.equals(broker.setValue(address));
                        }
                        if (changed) {
                            Line line = new Line("routes").put("mode", mode);
                            for (Map.Entry<String, String> broker : known.entrySet()) {
                                line.put(broker.getKey(), broker.getValue());
                            }
                            line.print();
                        }
                        Thread.sleep(50);
                    }
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
            }
        };
        thread.setDaemon(true);
        thread.start();
    }

    /** The getter's name began with getmQ until 4.9 and with getMq since 5.0. */
    private static MQClientInstance client(DefaultMQProducerImpl producer) throws Exception {
        for (Method method : DefaultMQProducerImpl.class.getMethods()) {
            if (method.getName().equalsIgnoreCase("getMqClientFactory")) {
                return (MQClientInstance) method.invoke(producer);
            }
        }
        throw new NoSuchMethodException("getMqClientFactory");
    }
}

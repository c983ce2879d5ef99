package raftmq;

import java.nio.charset.StandardCharsets;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * A transaction producer. How a transaction ends is the message's property {@code decision}, so that any producer of the
 * group can answer a check. {@code commit} and {@code rollback} are decided at once; {@code later-commit} and
 * {@code later-rollback} are left open and decided by the first check; {@code third-commit} by the third that this
 * process sees. With --undecided everything stays open for ever. Prints each send and each check.
 */
final class Transactions implements TransactionListener {
    private static final long PATIENCE_NS = 20000000000L;

    private final String topic;
    private final String prefix;
    private final boolean undecided;
    private final ConcurrentHashMap<String, AtomicInteger> checks = new ConcurrentHashMap<String, AtomicInteger>();
    /** What is decided later, until it is. */
    private final Set<String> open = ConcurrentHashMap.newKeySet();
    private volatile long lastCheck = Clock.now();

    private Transactions(Options options) {
        topic = options.text("topic");
        prefix = options.text("prefix", "m");
        undecided = options.flag("undecided");
    }

    /**
     * Sends {@code --count} messages, then answers checks until standard input closes, which also ends the sending. With
     * --settle-ms it goes on until everything is decided and no check has come for so long, since an answer may get lost.
     */
    static void run(Options options) throws Exception {
        Transactions transactions = new Transactions(options);
        TransactionMQProducer producer = new TransactionMQProducer(options.text("group", "it_transactions"));
        Clients.common(producer, options);
        Clients.sending(producer, options);
        producer.setTransactionListener(transactions);
        String[] decisions = options.text("decisions", "commit,rollback,later-commit,later-rollback").split(",");
        long count = options.number("count", 0);
        double rate = options.number("rate", 0);
        long settle = options.number("settle-ms", 0) * 1000000;
        options.checkAllRead();
        Clients.start(producer);
        Clients.awaitRoute(producer, transactions.topic);
        new Line("started").print();
        long due = Clock.now();
        for (long n = 0; n < count && !Stdin.isClosed(); n++) {
            transactions.send(producer, n, decisions[(int) (n % decisions.length)]);
            if (rate > 0) {
                due = Math.max(due + (long) (1e9 / rate), Clock.now());
                Clock.sleepUntil(due);
            }
        }
        Stdin.waitUntilClosed();
        long closed = Clock.now();
        while (settle > 0 && Clock.now() < closed + PATIENCE_NS
                && (!transactions.open.isEmpty() || Clock.now() < Math.max(closed, transactions.lastCheck) + settle)) {
            Thread.sleep(20);
        }
        producer.shutdown();
        new Line("done").put("checks", transactions.checks.size()).print();
    }

    private void send(TransactionMQProducer producer, long n, String decision) {
        String value = prefix + "-" + decision + "-" + n;
        long start = Clock.now();
        Line line = new Line("send").put("mode", decision).put("topic", topic);
        line.put("values", java.util.Collections.singletonList(value));
        try {
            Message message = new Message(topic, value.getBytes(StandardCharsets.UTF_8));
            message.setKeys("k-" + value);
            message.setTags("T");
            message.putUserProperty("decision", decision);
            TransactionSendResult result = producer.sendMessageInTransaction(message, decision);
            line.put("ok", true).put("status", result.getSendStatus().name())
                .put("broker", result.getMessageQueue().getBrokerName())
                .put("queue", result.getMessageQueue().getQueueId()).put("offset", result.getQueueOffset())
                .put("msg_id", result.getMsgId()).put("transaction_id", result.getTransactionId())
                .put("state", String.valueOf(result.getLocalTransactionState()));
            if (result.getLocalTransactionState() == LocalTransactionState.UNKNOW && !checks.containsKey(value)) {
                open.add(value);
            }
        } catch (Throwable error) {
            line.put("ok", false).put("error", Send.text(error));
        }
        line.put("start", start).put("end", Clock.now()).print();
    }

    @Override
    public LocalTransactionState executeLocalTransaction(Message message, Object decision) {
        return decide(String.valueOf(decision), 0);
    }

    @Override
    public LocalTransactionState checkLocalTransaction(MessageExt message) {
        String value = Body.value(message.getBody());
        AtomicInteger seen = checks.computeIfAbsent(value, v -> new AtomicInteger());
        int times = seen.incrementAndGet();
        String decision = message.getUserProperty("decision");
        LocalTransactionState answer = decide(decision, times);
        lastCheck = Clock.now();
        if (answer == LocalTransactionState.UNKNOW) {
            open.add(value);
        } else {
            open.remove(value);
        }
        new Line("check").put("value", value).put("answer", answer.name()).put("times", times)
            .put("topic", message.getTopic()).put("msg_id", message.getMsgId())
            .put("transaction_id", message.getTransactionId())
            .put("counted", message.getProperty("TRANSACTION_CHECK_TIMES")).put("at", Clock.now()).print();
        return answer;
    }

    private LocalTransactionState decide(String decision, int check) {
        if (undecided) {
            return LocalTransactionState.UNKNOW;
        }
        switch (decision) {
            case "commit":
                return LocalTransactionState.COMMIT_MESSAGE;
            case "rollback":
                return LocalTransactionState.ROLLBACK_MESSAGE;
            case "later-commit":
                return check >= 1 ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.UNKNOW;
            case "later-rollback":
                return check >= 1 ? LocalTransactionState.ROLLBACK_MESSAGE : LocalTransactionState.UNKNOW;
            case "third-commit":
                return check >= 3 ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.UNKNOW;
            default:
                return LocalTransactionState.UNKNOW;
        }
    }
}

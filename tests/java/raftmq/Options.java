package raftmq;

import java.util.HashMap;
import java.util.Map;
import java.util.TreeSet;

/** Options of the form {@code --name value} or {@code --flag}. An option that nobody asked for is an error. */
final class Options {
    private final Map<String, String> values = new HashMap<String, String>();
    private final TreeSet<String> unread = new TreeSet<String>();

    Options(String[] args) {
        for (int i = 0; i < args.length; i++) {
            if (!args[i].startsWith("--")) {
                throw new IllegalArgumentException("expected an option, found " + args[i]);
            }
            String name = args[i].substring(2);
            boolean flag = i + 1 == args.length || args[i + 1].startsWith("--");
            values.put(name, flag ? "true" : args[++i]);
            unread.add(name);
        }
    }

    String text(String name, String otherwise) {
        unread.remove(name);
        String value = values.get(name);
        return value == null ? otherwise : value;
    }

    String text(String name) {
        String value = text(name, null);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }

    long number(String name, long otherwise) {
        String value = text(name, null);
        return value == null ? otherwise : Long.parseLong(value);
    }

    boolean flag(String name) {
        return Boolean.parseBoolean(text(name, "false"));
    }

    String nameServers() {
        return text("namesrv", System.getenv("NAMESRV_ADDR"));
    }

    /** To be called once every option was asked for, before anything is sent. */
    void checkAllRead() {
        if (!unread.isEmpty()) {
            throw new IllegalArgumentException("unknown options " + unread);
        }
    }
}

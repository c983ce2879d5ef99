package raftmq;

import java.util.Map;
import java.util.TreeMap;

/** One line of output: a JSON object whose fields keep their order. */
final class Line {
    private final StringBuilder text = new StringBuilder("{");

    Line(String event) {
        put("event", event);
    }

    Line put(String name, String value) {
        name(name);
        if (value == null) {
            text.append("null");
        } else {
            quote(value);
        }
        return this;
    }

    Line put(String name, long value) {
        name(name).append(value);
        return this;
    }

    Line put(String name, double value) {
        name(name).append(value);
        return this;
    }

    Line put(String name, boolean value) {
        name(name).append(value);
        return this;
    }

    /** An object, by the order of the names. */
    Line put(String name, Map<String, String> values) {
        name(name).append('{');
        String comma = "";
        for (Map.Entry<String, String> value : new TreeMap<String, String>(values).entrySet()) {
            text.append(comma);
            quote(value.getKey());
            text.append(':');
            quote(value.getValue());
            comma = ",";
        }
        text.append('}');
        return this;
    }

    Line put(String name, Iterable<String> values) {
        name(name).append('[');
        String comma = "";
        for (String value : values) {
            text.append(comma);
            quote(value);
            comma = ",";
        }
        text.append(']');
        return this;
    }

    void print() {
        String line = text.append("}\n").toString();
        synchronized (System.out) {
            System.out.print(line);
            System.out.flush();
        }
    }

    private StringBuilder name(String name) {
        if (text.length() > 1) {
            text.append(',');
        }
        quote(name);
        return text.append(':');
    }

    private void quote(String value) {
        text.append('"');
        for (int i = 0; i < value.length(); i++) {
            char c = value.charAt(i);
            if (c == '"' || c == '\\') {
                text.append('\\').append(c);
            } else if (c < ' ') {
                text.append(String.format("\\u%04x", (int) c));
            } else {
                text.append(c);
            }
        }
        text.append('"');
    }
}

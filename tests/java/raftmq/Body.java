package raftmq;

import java.nio.charset.StandardCharsets;

/** A body is its value; when more bytes are asked for, a '|' and padding that depends on the position alone follow. */
final class Body {
    private Body() {
    }

    static byte[] of(String value, int size) {
        StringBuilder body = new StringBuilder(value);
        if (size > body.length()) {
            body.append('|');
            while (body.length() < size) {
                body.append(padding(body.length()));
            }
        }
        return body.toString().getBytes(StandardCharsets.UTF_8);
    }

    static String value(byte[] body) {
        String text = new String(body, StandardCharsets.UTF_8);
        int bar = text.indexOf('|');
        return bar < 0 ? text : text.substring(0, bar);
    }

    /** Whether the padding is what was sent. */
    static boolean isIntact(byte[] body) {
        String text = new String(body, StandardCharsets.UTF_8);
        int bar = text.indexOf('|');
        for (int i = bar + 1; bar >= 0 && i < text.length(); i++) {
            if (text.charAt(i) != padding(i)) {
                return false;
            }
        }
        return true;
    }

    private static char padding(int position) {
        return (char) ('a' + position % 26);
    }
}

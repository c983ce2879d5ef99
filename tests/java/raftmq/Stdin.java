package raftmq;

import java.io.IOException;

/** The test closes our standard input to end a scenario that has no end of its own. */
final class Stdin {
    private Stdin() {
    }

    static void waitUntilClosed() throws IOException {
        while (System.in.read() >= 0) {
            continue;
        }
    }

    /** Calls {@code then} once standard input is closed. */
    static void whenClosed(final Runnable then) {
        Thread thread = new Thread("stdin") {
            @Override
            public void run() {
                try {
                    waitUntilClosed();
                } catch (IOException e) {
                    e.printStackTrace();
                }
                then.run();
            }
        };
        thread.setDaemon(true);
        thread.start();
    }
}

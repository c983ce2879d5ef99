package raftmq;

import java.io.IOException;
import java.util.concurrent.CountDownLatch;

/** The test closes our standard input to end scenarios that have no end of their own. */
final class Stdin {
    private static final CountDownLatch CLOSED = new CountDownLatch(1);

    static {
        Thread thread = new Thread("stdin") {
            @Override
            public void run() {
                try {
                    while (System.in.read() >= 0) {
                        continue;
                    }
                } catch (IOException e) {
                    e.printStackTrace();
                }
                CLOSED.countDown();
            }
        };
        thread.setDaemon(true);
        thread.start();
    }

    private Stdin() {
    }

    static void waitUntilClosed() throws InterruptedException {
        CLOSED.await();
    }

    static boolean isClosed() {
        return CLOSED.getCount() == 0;
    }

    /** Calls {@code then} once standard input is closed. */
    static void whenClosed(final Runnable then) {
        Thread thread = new Thread("stdin-closed") {
            @Override
            public void run() {
                try {
                    waitUntilClosed();
                    then.run();
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
            }
        };
        thread.setDaemon(true);
        thread.start();
    }
}

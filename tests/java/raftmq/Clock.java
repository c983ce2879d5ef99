package raftmq;

import java.time.Instant;

/** Nanoseconds since 1970 on a clock that never jumps: read once from the wall clock, then System.nanoTime. */
final class Clock {
    private static final long BASE;

    static {
        Instant start = Instant.now();
        BASE = start.getEpochSecond() * 1000000000L + start.getNano() - System.nanoTime();
    }

    private Clock() {
    }

    static long now() {
        return BASE + System.nanoTime();
    }

    /** Sleeps until {@code at}, a value of {@link #now}. */
    static void sleepUntil(long at) throws InterruptedException {
        long left = at - now();
        if (left > 0) {
            Thread.sleep(left / 1000000L, (int) (left % 1000000L));
        }
    }
}

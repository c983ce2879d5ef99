package raftmq;

/** Counts of durations in nanoseconds, in buckets at most 1/64 apart. Not for use by several threads at once. */
final class Histogram {
    private static final int SUB_BITS = 6;
    private final long[] counts = new long[(64 - SUB_BITS) << SUB_BITS];
    private long total;
    private long sum;
    private long max;

    void add(long nanos) {
        long value = Math.max(nanos, 0);
        counts[bucket(value)]++;
        total++;
        sum += value;
        max = Math.max(max, value);
    }

    void addAll(Histogram other) {
        for (int i = 0; i < counts.length; i++) {
            counts[i] += other.counts[i];
        }
        total += other.total;
        sum += other.sum;
        max = Math.max(max, other.max);
    }

    long count() {
        return total;
    }

    /** Puts mean, p50, p90, p99, p999 and max, in milliseconds, under names that begin with {@code prefix}. */
    Line put(Line line, String prefix) {
        return line.put(prefix + "mean_ms", total == 0 ? 0 : sum / 1e6 / total)
            .put(prefix + "p50_ms", quantile(0.5) / 1e6)
            .put(prefix + "p90_ms", quantile(0.9) / 1e6)
            .put(prefix + "p99_ms", quantile(0.99) / 1e6)
            .put(prefix + "p999_ms", quantile(0.999) / 1e6)
            .put(prefix + "max_ms", max / 1e6);
    }

    private long quantile(double q) {
        long rank = (long) Math.ceil(q * total);
        long seen = 0;
        for (int i = 0; i < counts.length; i++) {
            seen += counts[i];
            if (seen >= rank && seen > 0) {
                return Math.min(upperEdge(i), max);
            }
        }
        return 0;
    }

    private static int bucket(long value) {
        if (value < 1 << SUB_BITS) {
            return (int) value;
        }
        int shift = 63 - Long.numberOfLeadingZeros(value) - SUB_BITS;
        return ((shift + 1) << SUB_BITS) + (int) ((value >>> shift) - (1 << SUB_BITS));
    }

    private static long upperEdge(int bucket) {
        if (bucket < 1 << SUB_BITS) {
            return bucket;
        }
        int shift = (bucket >> SUB_BITS) - 1;
        long mantissa = (1 << SUB_BITS) + (bucket & ((1 << SUB_BITS) - 1));
        return ((mantissa + 1) << shift) - 1;
    }
}

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;

import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Runs mqadmin's commands one after another in one JVM, whose start takes longer than most of them.
 *
 * <p>A line of standard input is a command: a limit in milliseconds and the arguments, separated by tabs. The answer
 * is the number of bytes that the command wrote, on a line, and those bytes. A command that goes on for ever is
 * interrupted at its limit.
 */
public final class Shell {
    static final String INTERRUPTED = "(interrupted)";

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] fields = line.split("\t", -1);
            byte[] said = run(Long.parseLong(fields[0]), Arrays.copyOfRange(fields, 1, fields.length));
            answers.println(said.length);
            answers.write(said);
            answers.flush();
        }
        // Clients leave threads behind.
        System.exit(0);
    }

    /**
     * Some commands keep the client of their last run, and go on with it though it was shut down. In a process of their own
     * there is none.
     */
    private static void forgetCommands() throws ReflectiveOperationException {
        Field commands = MQAdminStartup.class.getDeclaredField("SUB_COMMANDS");
        commands.setAccessible(true);
        ((List<?>) commands.get(null)).clear();
    }

    private static byte[] run(long limitMillis, String[] command) throws Exception {
        forgetCommands();
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        PrintStream out = new PrintStream(said, true, "UTF-8");
        System.setOut(out);
        System.setErr(out);
        Thread thread = new Thread(() -> MQAdminStartup.main(command), "mqadmin");
        thread.setDaemon(true);
        thread.start();
        long end = System.nanoTime() + limitMillis * 1_000_000;
        for (long left = limitMillis; thread.isAlive() && left > 0; left = (end - System.nanoTime()) / 1_000_000) {
            thread.join(Math.min(left, 200));
            wakeWhatStops(thread);
        }
        if (thread.isAlive()) {
            byte[] before = said.toByteArray();
            thread.interrupt();
            thread.join(5000);
            // What it says to the interruption is not of interest.
            said.reset();
            said.write(before);
            said.write(("\n" + INTERRUPTED + "\n").getBytes(StandardCharsets.UTF_8));
        }
        return said.toByteArray();
    }

    /**
     * A client that is shut down waits for its event thread, which at times misses that it is stopped and goes on waiting
     * for events: up to 3 s, in about every fifth command.
     */
    private static void wakeWhatStops(Thread command) {
        boolean isStopping = Arrays.stream(command.getStackTrace())
            .anyMatch(frame -> frame.getClassName().endsWith("ServiceThread") && frame.getMethodName().equals("shutdown"));
        if (isStopping) {
            Thread.getAllStackTraces().keySet().stream()
                .filter(thread -> thread.getName().equals("NettyEventExecutor"))
                .forEach(Thread::interrupt);
        }
    }
}

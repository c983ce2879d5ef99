//! Every number that bounds a connection, with the reason for it. The configuration structs take
//! their defaults from here; assertions below hold between them.

use std::time::Duration;

/// Largest frame, length word included; the Java side closes on anything larger (protocol.md 1.1).
pub const FRAME_BYTES_MAX: usize = wire::FRAME_BYTES_MAX;

/// Bytes asked of one read; grows to the maximum while reads fill their buffer. At the maximum a read
/// brings some fifty messages of 1 KiB, and its buffer still fits a core's cache.
pub const READ_BYTES_MIN: usize = 4 * 1024;
pub const READ_BYTES_MAX: usize = 64 * 1024;

/// A body of this size or more is handed to the kernel where it lies; a smaller one is copied
/// behind its header, which is cheaper than one more slice in the vectored write.
pub const BODY_INLINE_BYTES_MAX: usize = 4 * 1024;

/// How long a peer's kernel may leave unacknowledged what we sent on a connection that we opened: a client's usual
/// timeout.
pub const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(3);

/// Slices in one vectored write; the kernel takes up to 1024, more than this brings nothing.
pub const WRITE_SLICES_MAX: usize = 64;

/// Turns of read and write before a busy connection lets others run.
pub const ROUNDS_PER_WAKE: usize = 16;

/// Room that a frame of the largest size leaves for its header when we are the sender.
pub const HEADER_ROOM_BYTES: usize = 4 * 1024;

/// What a request is charged beyond its bytes: decoded fields, reply handle, whatever the handler
/// keeps for it. Bounds the *number* of requests in flight as well.
pub const REQUEST_OVERHEAD_BYTES: usize = 512;

/// Requests taken and not answered, per connection. At the smallest charge some 60,000 held pulls.
pub const IN_FLIGHT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The same for all connections that share a budget, partial frames included.
pub const IN_FLIGHT_BYTES_TOTAL_MAX: usize = 256 * 1024 * 1024;

/// A partial frame below this size is not charged to the total: 20,000 idle peers with half a
/// header each must not cost 20,000 updates, and together hold 80 MiB at most.
pub const PARTIAL_FREE_BYTES: usize = 4 * 1024;

/// What a peer may have sent that was not read yet, in the kernel. What lies there when there is too much has waited for
/// nothing, and Linux would let it grow to 6 MiB and more for each connection. Kafka's brokers have 100 KiB
/// (`socket.receive.buffer.bytes`).
pub const RECEIVE_BUFFER_BYTES: usize = 128 * 1024;

/// Replies and pushes that wait for the peer to read: beyond the first, nothing more is read from
/// that peer; beyond the second, it is a slow reader and is reset.
pub const OUTBOUND_PAUSE_BYTES: usize = 4 * 1024 * 1024;
pub const OUTBOUND_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The same for all connections of a budget; beyond it, a peer above its pause mark is reset.
pub const OUTBOUND_BYTES_TOTAL_MAX: usize = 512 * 1024 * 1024;

/// How long nothing is read of a connection whose requests are refused because there is too much: at first, doubled while
/// more waits behind what is refused, and at most. Heartbeats and pulls of the same peer wait as long; a client gives each of
/// its requests seconds. 20,000 connections at the longest are 125,000 looks a second.
pub const PAUSE_MIN: Duration = Duration::from_millis(20);
pub const PAUSE_MAX: Duration = Duration::from_millis(160);

/// What has waited in the socket for so long behind such refusals is late, with all behind it, up to so many bytes: a client
/// gives a send 3 s, of which the queue takes some. As long as may be, for all that is late must be read and refused.
pub const LATE: Duration = Duration::from_millis(1500);
pub const LATE_BYTES_MAX: u64 = 1 << 20;

/// Server-originated requests, or calls of a client, that wait for their response on one
/// connection (Java: 65,535 permits).
pub const PENDING_MAX: usize = 65_536;

pub const CONNECTIONS_MAX: usize = 20_000;
/// Many clients share one address behind a NAT or a proxy, so this is no fairness rule, only a
/// bound on what one host can take.
pub const CONNECTIONS_PER_IP_MAX: usize = 10_000;

/// Connections that the kernel completes for us before we accept them (Java: 1024).
pub const BACKLOG: i32 = 1024;

/// How long a frame may take to arrive: this, plus its bytes at the least rate. A peer that drips
/// gets the first, a 16 MiB frame over a slow link the second.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(10);
pub const FRAME_BYTES_PER_SECOND_MIN: usize = 256 * 1024;

/// Nothing read and nothing written (Java: 120 s, both sides).
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// Data waits and the peer takes none of it, or its kernel acknowledges nothing.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that we accepted is asked whether it is still there when nothing came from it for the first time, and then each of
/// the second (TCP keepalive). Who ended while the network was cut is known by the first answer once it is whole, and his
/// place in a consumer group is free; who does not answer within [`WRITE_STALL_TIMEOUT`] is gone.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Deadlines are checked this often, for all connections in one pass: no timer per connection.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A Java client's connect timeout.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// After a planned close we wait this long for the peer to close too; stock clients do so at once.
pub const PARTING_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause of the accept loop when the process is out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = {
    assert!(PAUSE_MIN.as_millis() <= PAUSE_MAX.as_millis() && PAUSE_MAX.as_millis() * 3 <= LATE.as_millis());
    assert!(FRAME_BYTES_MAX + REQUEST_OVERHEAD_BYTES <= IN_FLIGHT_BYTES_MAX);
    assert!(IN_FLIGHT_BYTES_MAX * 2 <= IN_FLIGHT_BYTES_TOTAL_MAX);
    assert!(OUTBOUND_PAUSE_BYTES < OUTBOUND_BYTES_MAX);
    assert!(FRAME_BYTES_MAX < OUTBOUND_BYTES_MAX);
    assert!(OUTBOUND_BYTES_MAX * 2 <= OUTBOUND_BYTES_TOTAL_MAX);
    assert!(CONNECTIONS_PER_IP_MAX <= CONNECTIONS_MAX);
    assert!(READ_BYTES_MIN <= READ_BYTES_MAX && READ_BYTES_MAX <= FRAME_BYTES_MAX);
    assert!(PARTIAL_FREE_BYTES * CONNECTIONS_MAX <= 128 * 1024 * 1024);
};

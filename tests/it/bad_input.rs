//! Illegal bytes and illegal requests on raw sockets. Each gets a clear error or a closed connection, another
//! connection goes on unharmed, no node panics, and nothing stored changes.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::cluster::Running;
use tests::paths;
use tests::remoting::{
    Command, Connection, Fields, GET_MAX_OFFSET, GET_ROUTEINFO_BY_TOPIC, HEART_BEAT, PULL_MESSAGE,
    REQUEST_CODE_NOT_SUPPORTED, Reaction, SEND_MESSAGE, SEND_MESSAGE_V2, UPDATE_AND_CREATE_TOPIC, encode,
    frame, send_fields,
};
use tests::runner::{Requirement, Scratch, Test, test};

const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn tests() -> Vec<Test> {
    // What Apache does with these differs in places; the rules here are RaftMQ's.
    let test = |name, check: fn(&Scratch) -> Result<()>| {
        test(name, &[Requirement::OwnCluster], move |scratch| {
            check(scratch)?;
            no_node_has_panicked()
        })
    };
    vec![
        test("bad_input::frames_that_lie", frames_that_lie),
        test("bad_input::headers_that_are_none", headers_that_are_none),
        test("bad_input::requests_that_break_a_rule", requests_that_break_a_rule),
        test("bad_input::a_nameserver_survives_too", a_nameserver_survives_too),
        test("bad_input::ten_thousand_random_frames", ten_thousand_random_frames),
    ]
}

/// A task that panics takes no node down, so it shows in the log only.
fn no_node_has_panicked() -> Result<()> {
    // Where the shared cluster of the tests lives (cluster.rs).
    let dir = paths::target().join("it").join("shared");
    let mut logs = 0;
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            logs += 1;
            let text = fs::read(&path)?;
            let text = String::from_utf8_lossy(&text);
            let panic = text.lines().find(|line| line.contains("panicked"));
            ensure!(panic.is_none(), "{}: {}", path.display(), panic.unwrap_or_default());
        }
    }
    ensure!(logs > 0, "no logs in {}", dir.display());
    Ok(())
}

/// Somebody else, connected to the same listener all the time, with a message to guard.
struct Bystander {
    connection: Connection,
    address: String,
    topic: String,
    end: i64,
    /// Everything that went wrong, so that one run tells all of it.
    complaints: Vec<String>,
}

impl Bystander {
    fn start(scratch: &Scratch) -> Result<Bystander> {
        let cluster = Running::get()?;
        let topic = scratch.unique("t");
        cluster.create_topic(&topic, 1)?;
        let address = cluster.master(&cluster.groups()[0])?;
        let mut connection = Connection::open(&address, LIMIT)?;
        let end = connection.send(&topic, 0, b"guarded")?.offset + 1;
        Ok(Bystander { connection, address, topic, end, complaints: Vec::new() })
    }

    fn open(&self) -> Result<Connection> {
        Connection::open(&self.address, LIMIT)
    }

    /// Reads and writes as before, and finds the queue as it was.
    fn assert_unharmed(&mut self, after: &str) -> Result<()> {
        let end = self.connection.max_offset(&self.topic, 0).with_context(|| format!("after {after}"))?;
        ensure!(end == self.end, "{after} changed the queue from {} to {end} messages", self.end);
        let stored =
            self.connection.send(&self.topic, 0, b"next").with_context(|| format!("after {after}"))?;
        ensure!(stored.offset == end, "after {after}: {stored:?}");
        let messages = self.connection.pull(&self.topic, 0, 0)?;
        ensure!(messages.first().is_some_and(|m| m.body == b"guarded"), "after {after}: {messages:?}");
        self.end += 1;
        Ok(())
    }

    /// `bytes` on a connection of their own must close it, or be answered with an error.
    fn provoke(&mut self, what: &str, bytes: &[u8]) {
        let reaction = self.open().and_then(|mut connection| connection.provoke(bytes));
        let result = reaction.and_then(|reaction| match reaction {
            Reaction::Closed => Ok(()),
            Reaction::Answered(response) => is_clear_error(&response),
        });
        self.note(what, result);
    }

    /// A request that must be answered with an error whose remark has the word `names`, on a connection that goes on.
    fn refuse(&mut self, what: &str, code: i32, fields: Fields, body: &[u8], names: &str) {
        let result = self.open().and_then(|mut connection| {
            let response = connection.ask(code, fields, body)?;
            is_clear_error(&response)?;
            let named = response.remark.to_lowercase().contains(&names.to_lowercase());
            ensure!(named, "the remark does not name {names}: {response:?}");
            connection.max_offset(&self.topic, 0).context("its connection ended")?;
            Ok(())
        });
        self.note(what, result);
    }

    fn note(&mut self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            self.complaints.push(format!("{what}: {error:#}"));
        }
        if let Err(error) = self.assert_unharmed(what) {
            self.complaints.push(format!("{error:#}"));
            // what was stored wrongly is complained of once
            self.end = self.connection.max_offset(&self.topic, 0).unwrap_or(self.end);
        }
    }

    fn verdict(self) -> Result<()> {
        let some = &self.complaints[..self.complaints.len().min(20)];
        ensure!(some.is_empty(), "{} complaints:\n{}", self.complaints.len(), some.join("\n"));
        Ok(())
    }
}

fn is_clear_error(response: &Command) -> Result<()> {
    ensure!(response.code != 0, "it was accepted: {response:?}");
    ensure!(!response.remark.is_empty(), "an error without a reason: {response:?}");
    Ok(())
}

/// The first 8 bytes of a frame.
fn lengths(total: u32, header: u32) -> Vec<u8> {
    [total.to_be_bytes(), header.to_be_bytes()].concat()
}

fn frames_that_lie(scratch: &Scratch) -> Result<()> {
    let mut bystander = Bystander::start(scratch)?;
    let good = encode(SEND_MESSAGE, 1, 0, &send_fields(&bystander.topic.clone(), "0", ""), b"never stored");
    let header_length = u32::from_be_bytes(good[4..8].try_into()?);

    let mut longer_header = good.clone();
    longer_header[4..8].copy_from_slice(&(good.len() as u32).to_be_bytes());
    let mut into_body = good.clone();
    into_body[4..8].copy_from_slice(&(header_length + 3).to_be_bytes());
    let mut cut_header = good.clone();
    cut_header[4..8].copy_from_slice(&(header_length - 3).to_be_bytes());
    let mut unknown_format = good.clone();
    unknown_format[4] = 9;
    let cases = [
        ("a frame of 2 GiB", lengths(0x7FFF_FFFF, 16)),
        ("a frame of 4 GiB", lengths(0xFFFF_FFFF, 16)),
        ("a frame just over 16 MiB", lengths((16 << 20) + 1, 16)),
        ("an empty frame", 0_u32.to_be_bytes().to_vec()),
        ("a frame without room for the header length", [3_u32.to_be_bytes().as_slice(), &[0; 3]].concat()),
        ("a header longer than its frame", longer_header),
        ("a header of 16 MiB in a frame of 16 bytes", [lengths(16, 0x00FF_FFFF), vec![b'x'; 12]].concat()),
        ("a header that reaches into the body", into_body),
        ("a header that is cut", cut_header),
        ("an empty header", lengths(4, 0)),
        ("an unknown header format", unknown_format),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in cases {
        bystander.provoke(what, &bytes);
    }
    // truncated at every kind of place: the peer goes away in the middle of a frame
    for cut in [1, 4, 6, 8, 20, good.len() - 20, good.len() - 1] {
        let what = format!("a frame cut after {cut} bytes");
        let mut connection = bystander.open()?;
        connection.write(&good[..cut])?;
        connection.finish_writing()?;
        let reaction = connection.provoke(&[]).with_context(|| what.clone())?;
        ensure!(reaction == Reaction::Closed, "{what}: {reaction:?}");
        bystander.assert_unharmed(&what)?;
    }
    // and a good one, in pieces: nothing above was refused for the wrong reason
    let mut connection = bystander.open()?;
    for piece in good.chunks(7) {
        connection.write(piece)?;
    }
    let Reaction::Answered(response) = connection.provoke(&[])? else {
        bail!("a good frame closed the connection")
    };
    ensure!(response.code == 0, "{response:?}");
    bystander.end += 1;
    bystander.assert_unharmed("a good frame")?;
    bystander.verdict()
}

fn headers_that_are_none(scratch: &Scratch) -> Result<()> {
    let mut bystander = Bystander::start(scratch)?;
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let wide =
        format!(r#"{{"code":10,"opaque":1,"flag":0,"extFields":{{"topic":"{}"}}}}"#, "x".repeat(1 << 20));
    let not_utf8 = b"{\"code\":10,\"opaque\":1,\"flag\":0,\"remark\":\"\xFF\xFE\"}".to_vec();
    let cases: [(&str, Vec<u8>); 9] = [
        ("no JSON", b"hello, world".to_vec()),
        ("a JSON array", b"[1,2,3]".to_vec()),
        ("JSON without a code", br#"{"opaque":1,"flag":0}"#.to_vec()),
        ("a code that is text", br#"{"code":"ten","opaque":1,"flag":0}"#.to_vec()),
        ("a code beyond 32 bits", br#"{"code":99999999999,"opaque":1,"flag":0}"#.to_vec()),
        ("JSON cut in the middle", br#"{"code":10,"opaque":1,"#.to_vec()),
        ("JSON a hundred thousand deep", deep),
        ("a topic of 1 MiB", wide.into_bytes()),
        ("a header that is not UTF-8", not_utf8),
    ];
    for (what, header) in cases {
        bystander.provoke(what, &frame(&header, b""));
    }
    // a ROCKETMQ header whose inner lengths lie
    let mut binary = lengths(4 + 25, 0x0100_0000 + 25);
    binary.extend(10_u16.to_be_bytes());
    binary.extend([0, 1, 223]);
    binary.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    binary.extend(0x7FFF_FFFF_u32.to_be_bytes());
    binary.extend(0x7FFF_FFFF_u32.to_be_bytes());
    binary.extend([0; 4]);
    bystander.provoke("a binary header whose lengths lie", &binary);
    bystander.verdict()
}

fn with<'a>(fields: Fields<'a>, name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    fields.iter().map(|&(n, v)| (n, if n == name { value } else { v })).collect()
}

fn without<'a>(fields: Fields<'a>, name: &str) -> Vec<(&'a str, &'a str)> {
    fields.iter().copied().filter(|&(n, _)| n != name).collect()
}

fn requests_that_break_a_rule(scratch: &Scratch) -> Result<()> {
    let mut bystander = Bystander::start(scratch)?;
    let topic = bystander.topic.clone();
    let good = send_fields(&topic, "0", "");

    for code in [9, 999, 77_777, -5, i32::MAX] {
        let what = format!("request code {code}");
        bystander.refuse(&what, code, &[], &[], &code.to_string());
        let answer = bystander.open()?.ask(code, &[], &[]).map(|response| response.code);
        let supported = answer.and_then(|code| {
            ensure!(code == REQUEST_CODE_NOT_SUPPORTED, "answered with code {code}");
            Ok(())
        });
        bystander.note(&what, supported);
    }

    let long = "t".repeat(128);
    let names = ["bad topic", "bad/topic", "bad.topic!", "тема", "a\u{1}b", "", &long];
    for name in names {
        let what = format!("a send to topic {name:?}");
        bystander.refuse(&what, SEND_MESSAGE, &with(&good, "topic", name), b"x", "topic");
        let fields = [
            ("topic", name),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", "1"),
            ("writeQueueNums", "1"),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ];
        let what = format!("the creation of topic {name:?}");
        bystander.refuse(&what, UPDATE_AND_CREATE_TOPIC, &fields, &[], "topic");
    }
    // Apache 5.3.3 takes a send without producerGroup, and so do we.
    for field in ["topic", "queueId", "sysFlag", "bornTimestamp", "flag"] {
        let what = format!("a send without {field}");
        bystander.refuse(&what, SEND_MESSAGE, &without(&good, field), b"x", field);
    }
    for (field, value) in
        [("queueId", "two"), ("queueId", "99999999999"), ("bornTimestamp", "now"), ("sysFlag", "")]
    {
        let what = format!("a send with {field} {value:?}");
        bystander.refuse(&what, SEND_MESSAGE, &with(&good, field, value), b"x", field);
    }
    bystander.refuse("a send to queue 77 of 1", SEND_MESSAGE, &with(&good, "queueId", "77"), b"x", "queue");
    bystander.refuse("a V2 send without fields", SEND_MESSAGE_V2, &[], b"x", "");
    bystander.refuse("a pull without fields", PULL_MESSAGE, &[], &[], "");
    bystander.refuse("a heartbeat that is no JSON", HEART_BEAT, &[], b"not json", "");

    // properties: 32767 bytes at most, as two bytes of length hold them
    let long = format!("k\u{1}{}\u{2}", "v".repeat(40_000));
    bystander.refuse(
        "properties of 40,000 bytes",
        SEND_MESSAGE,
        &with(&good, "properties", &long),
        b"x",
        "propert",
    );
    let body = vec![b'x'; (4 << 20) + 1];
    bystander.refuse("a message over 4 MiB", SEND_MESSAGE, &good, &body, "4194304");

    // names of groups arrive with a pull
    let pull = |group: &'static str| {
        [
            ("consumerGroup", group),
            ("queueId", "0"),
            ("queueOffset", "0"),
            ("maxMsgNums", "1"),
            ("sysFlag", "4"),
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", "0"),
            ("subscription", "*"),
            ("subVersion", "0"),
        ]
    };
    for group in ["bad group", "", "a/b"] {
        let fields = [&pull(group)[..], &[("topic", topic.as_str())]].concat();
        bystander.refuse(&format!("a pull by group {group:?}"), PULL_MESSAGE, &fields, &[], "group");
    }
    bystander.verdict()
}

fn a_nameserver_survives_too(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 1)?;
    let mut calm = Connection::open(cluster.nameserver(), LIMIT)?;
    let good = encode(GET_ROUTEINFO_BY_TOPIC, 1, 0, &[("topic", &topic)], &[]);
    let mut longer_header = good.clone();
    longer_header[4..8].copy_from_slice(&(good.len() as u32).to_be_bytes());
    let cases = [
        ("a frame of 2 GiB", lengths(0x7FFF_FFFF, 16)),
        ("an empty frame", vec![0; 4]),
        ("a header longer than its frame", longer_header),
        ("no JSON", frame(b"nonsense", b"")),
        ("an unknown code", encode(4242, 1, 0, &[], &[])),
        ("a route without a topic", encode(GET_ROUTEINFO_BY_TOPIC, 1, 0, &[], &[])),
        ("a registration of nobody", encode(103, 1, 0, &[], b"{}")),
    ];
    for (what, bytes) in cases {
        let reaction = Connection::open(cluster.nameserver(), LIMIT)?
            .provoke(&bytes)
            .with_context(|| what.to_owned())?;
        if let Reaction::Answered(response) = reaction {
            ensure!(response.code != 0 && !response.remark.is_empty(), "{what}: {response:?}");
        }
        let answer = calm.call(GET_ROUTEINFO_BY_TOPIC, &[("topic", &topic)], &[]);
        answer.with_context(|| format!("the route after {what}"))?;
    }
    Ok(())
}

/// xorshift64*: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A connection on which every frame is followed by a question, so that it is known to have been read: either the
/// answer comes, or the broker has closed the connection because of the frame.
struct Probed {
    stream: TcpStream,
    topic: String,
    /// Of the last question; above all that the random frames name.
    opaque: i32,
}

impl Probed {
    /// A connection that has answered once.
    fn open(address: &str, topic: &str) -> Result<Probed> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut probed = Probed { stream, topic: topic.to_owned(), opaque: 1_000_000 };
        ensure!(probed.survives(&[])?, "a new connection was closed");
        Ok(probed)
    }

    /// Writes bytes and a question behind them. `true`: it was answered; `false`: the broker closed the connection.
    fn survives(&mut self, bytes: &[u8]) -> Result<bool> {
        self.opaque += 1;
        let fields = [("topic", self.topic.as_str()), ("queueId", "0")];
        let question = encode(GET_MAX_OFFSET, self.opaque, 0, &fields, &[]);
        if self.stream.write_all(&[bytes, question.as_slice()].concat()).is_err() {
            return Ok(false);
        }
        loop {
            let mut length = [0; 4];
            if !self.read(&mut length)? {
                return Ok(false);
            }
            let length = u32::from_be_bytes(length) as usize;
            ensure!((4..1 << 24).contains(&length), "an answer of {length} bytes");
            let mut answer = vec![0; length];
            if !self.read(&mut answer)? {
                return Ok(false);
            }
            // What was random may be answered too, with a binary header where it had one.
            let header_end = 4 + u32::from_be_bytes([0, answer[1], answer[2], answer[3]]) as usize;
            let header = answer.get(4..header_end).filter(|_| answer[0] == 0);
            let header: Option<Value> = header.and_then(|header| serde_json::from_slice(header).ok());
            if header.is_some_and(|header| header["opaque"].as_i64() == Some(i64::from(self.opaque))) {
                return Ok(true);
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the connection is neither served nor closed")
            }
            Err(_) => Ok(false),
        }
    }
}

/// Random frames, half of them mutations of real requests so that some get far.
fn ten_thousand_random_frames(scratch: &Scratch) -> Result<()> {
    const FRAMES: usize = 10_000;
    let mut bystander = Bystander::start(scratch)?;
    // Nothing here may store a message: sends name a topic that does not exist and cannot be created.
    let no_topic = "no such topic";
    let send = encode(SEND_MESSAGE, 1, 0, &send_fields(no_topic, "0", "k\u{1}v\u{2}"), b"random");
    let topic = bystander.topic.clone();
    let models = [
        send,
        encode(PULL_MESSAGE, 2, 0, &[("topic", &topic), ("queueId", "0"), ("queueOffset", "0")], &[]),
        encode(HEART_BEAT, 3, 0, &[], br#"{"clientID":"c","producerDataSet":[],"consumerDataSet":[]}"#),
        encode(GET_ROUTEINFO_BY_TOPIC, 4, 0, &[("topic", &topic)], &[]),
        encode(14, 5, 0, &[("consumerGroup", "g"), ("topic", &topic), ("queueId", "0")], &[]),
        encode(41, 6, 0, &[], br#"{"consumerGroup":"g","clientId":"c","mqSet":[]}"#),
    ];
    let mut random = Random(0x5EED_0001);
    let mut connection = Probed::open(&bystander.address, &topic)?;
    let (mut answered, mut closed) = (0, 0);
    for n in 1..=FRAMES {
        let mut bytes = models[random.below(models.len())].clone();
        match random.below(4) {
            0 => {
                // all random behind an honest length
                bytes = (0..random.below(300) + 8).map(|_| random.next() as u8).collect();
                let length = (bytes.len() - 4) as u32;
                bytes[..4].copy_from_slice(&length.to_be_bytes());
            }
            1 => {
                // the header is honest about its length too
                let header: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
                bytes = frame(&header, &[]);
                bytes[4] = random.below(3) as u8;
            }
            2 => {
                for _ in 0..=random.below(6) {
                    let at = 4 + random.below(bytes.len() - 4);
                    bytes[at] = random.next() as u8;
                }
            }
            _ => {
                // letters for letters and digits for digits: the header can be read, and its fields are wrong
                for _ in 0..=random.below(12) {
                    let at = 8 + random.below(bytes.len() - 8);
                    bytes[at] = match bytes[at] {
                        b'0'..=b'9' => b'0' + random.below(10) as u8,
                        b'a'..=b'z' | b'A'..=b'Z' => b'a' + random.below(26) as u8,
                        other => other,
                    };
                }
            }
        }
        if connection.survives(&bytes).with_context(|| format!("frame {n}: {bytes:02x?}"))? {
            answered += 1;
        } else {
            closed += 1;
            connection = Probed::open(&bystander.address, &topic)
                .with_context(|| format!("after frame {n}: {bytes:02x?}"))?;
        }
        if n % 1000 == 0 {
            bystander.assert_unharmed(&format!("{n} random frames"))?;
        }
    }
    ensure!(answered + closed == FRAMES, "{answered} + {closed} frames were read");
    // else the frames were all of one kind
    ensure!(answered > FRAMES / 100 && closed > FRAMES / 100, "{answered} answered, {closed} closed");
    scratch.report(&format!(
        "{FRAMES} random frames read; {closed} of them made the broker close the connection"
    ));
    Ok(())
}

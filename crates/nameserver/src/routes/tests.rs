//! The rules as scripts. A line is `time verb arguments`; the expected line is what it answered and
//! the tables after it: `name{id=address ..} topics`, `*` marks an id 0 that is only held.
//!
//! ```text
//! reg ID ADDR [key=value ..]   keys: b broker, c cluster, t term, v counter, conn, acting, topics, ms, zone
//! unreg ID ADDR [conn=CONN]   close CONN   tick   beat ADDR   wipe   add   reg-topic   del TOPIC [CLUSTER]
//! ```
//! An address `A` stands for `A:1`, and has connection 65, the number of its letter, unless `conn` says
//! otherwise; topics are `name:perm,..`, by default two of them.

use std::fmt::Write as _;

use super::*;

#[track_caller]
fn check(script: &str, expected: &str) {
    check_with(RouteOptions::default(), script, expected);
}

#[track_caller]
fn check_with(options: RouteOptions, script: &str, expected: &str) {
    let mut routes = Routes::default();
    let mut out = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let answer = step(&mut routes, options, line);
        routes.check();
        let tables = show(&routes);
        writeln!(out, "{}", format!("{line} -> {answer} | {tables}").trim_end()).unwrap();
    }
    let expected: String = expected.lines().map(str::trim).filter(|line| !line.is_empty()).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    );
    assert_eq!(out, expected, "\n--- got:\n{out}");
}

fn step(routes: &mut Routes, options: RouteOptions, line: &str) -> String {
    let mut words = line.split_whitespace();
    let now: u64 = words.next().unwrap().parse().unwrap();
    let verb = words.next().unwrap();
    let words: Vec<&str> = words.collect();
    let addr = |at: usize| format!("{}:1", words[at]);
    match verb {
        "reg" => match routes.register(now, options, registration(&words)) {
            Ok(Registered { is_fenced: true, .. }) => "fenced".into(),
            Ok(Registered { master_addr: Some(master), ha_server_addr: Some(ha), .. }) => {
                format!("{master} {ha}")
            }
            Ok(registered) => {
                assert_eq!(registered, Registered::default());
                "ok".into()
            }
            Err(error) => error.to_string(),
        },
        "unreg" => {
            let id = words[0].parse().unwrap();
            let heeded = routes.unregister("c", "b", &addr(1), id, connection(&words));
            if heeded { "ok".into() } else { "ignored".into() }
        }
        "close" => {
            routes.connection_closed(now, words[0].parse().unwrap());
            "ok".into()
        }
        "tick" => format!("{:?}", routes.tick(now)),
        "beat" => {
            routes.heard_from(now, "c", &addr(0));
            "ok".into()
        }
        "wipe" => routes.set_writable("b", false).to_string(),
        "add" => routes.set_writable("b", true).to_string(),
        "del" => {
            routes.delete_topic(words[0], words.get(1).copied());
            "ok".into()
        }
        "route" => match routes.route(options, words[0]) {
            Some(route) => format!("{:?}", route.broker_datas[0].broker_addrs),
            None => "none".into(),
        },
        other => panic!("no verb {other}"),
    }
}

fn registration(words: &[&str]) -> Registration {
    let option = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let number = |key: &str| option(key).map_or(0, |value| value.parse().unwrap());
    let mut topics = TopicConfigSerializeWrapper {
        data_version: DataVersion { state_version: number("t"), counter: number("v"), timestamp: 0 },
        ..TopicConfigSerializeWrapper::default()
    };
    for topic in option("topics").unwrap_or("T:6,U:6").split(',').filter(|topic| !topic.is_empty()) {
        let (name, perm) = topic.split_once(':').unwrap();
        let config = TopicConfig::new(name, 4, perm.parse().unwrap());
        topics.topic_config_table.insert(name.into(), config);
    }
    Registration {
        cluster: option("c").unwrap_or("c").into(),
        broker_name: option("b").unwrap_or("b").into(),
        broker_addr: format!("{}:1", words[1]),
        broker_id: words[0].parse().unwrap(),
        ha_server_addr: format!("ha-{}", words[1]),
        zone: option("zone").map(str::to_owned),
        timeout_ms: option("ms").map(|ms| ms.parse().unwrap()),
        enable_acting_master: option("acting").map(|acting| acting == "true"),
        topics,
        filter_servers: Some(Vec::new()),
        connection: connection(words),
    }
}

fn connection(words: &[&str]) -> u64 {
    match words.iter().find_map(|word| word.strip_prefix("conn=")) {
        Some(conn) => conn.parse().unwrap(),
        // By default each address has a connection of its own.
        None => words[1].bytes().next().unwrap().into(),
    }
}

fn show(routes: &Routes) -> String {
    let mut out = String::new();
    for (name, broker) in &routes.brokers {
        let members: Vec<String> = broker
            .members
            .iter()
            .map(|(id, addr)| {
                let mark = if *id == 0 && broker.hold.is_some() { "*" } else { "" };
                format!("{id}{mark}={}", addr.trim_end_matches(":1"))
            })
            .collect();
        write!(out, "{name}{{{}}} ", members.join(" ")).unwrap();
    }
    for (topic, queues) in &routes.topics {
        let perms: Vec<String> = queues.values().map(|data| data.perm.to_string()).collect();
        write!(out, "{topic}:{} ", perms.join("/")).unwrap();
    }
    out.trim_end().to_owned()
}

// As upstream: brokers whose state version is 0.

#[test]
fn a_master_and_its_slave() {
    check(
        "0 reg 0 A
         1 reg 1 B
         2 route T
         3 route X
         4 close 66
         5 reg 1 B
         6 close 65
         7 route T
         8 close 66",
        "0 reg 0 A -> ok | b{0=A} T:6 U:6
         1 reg 1 B -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         2 route T -> {0: \"A:1\", 1: \"B:1\"} | b{0=A 1=B} T:6 U:6
         3 route X -> none | b{0=A 1=B} T:6 U:6
         4 close 66 -> ok | b{0=A} T:6 U:6
         5 reg 1 B -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         6 close 65 -> ok | b{1=B} T:6 U:6
         7 route T -> {1: \"B:1\"} | b{1=B} T:6 U:6
         8 close 66 -> ok |",
    );
}

/// Rule 1: an address has one id.
#[test]
fn a_slave_becomes_the_master() {
    check(
        "0 reg 0 A
         1 reg 1 B
         2 reg 0 B v=1 topics=T:6,V:4
         3 reg 1 A",
        "0 reg 0 A -> ok | b{0=A} T:6 U:6
         1 reg 1 B -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         2 reg 0 B v=1 topics=T:6,V:4 -> ok | b{0=B} T:6 U:6 V:4
         3 reg 1 A -> B:1 ha-B | b{0=B 1=A} T:6 U:6 V:4",
    );
}

/// Rule 3: increments follow a full registration.
#[test]
fn a_single_topic_needs_a_known_broker() {
    check(
        "0 reg 0 A topics=T:6
         1 reg 0 A
         2 reg 0 A v=1 topics=V:6
         3 reg 0 A v=1 topics=",
        "0 reg 0 A topics=T:6 -> register broker failed |
         1 reg 0 A -> ok | b{0=A} T:6 U:6
         2 reg 0 A v=1 topics=V:6 -> ok | b{0=A} T:6 U:6 V:6
         3 reg 0 A v=1 topics= -> ok | b{0=A} T:6 U:6 V:6",
    );
}

/// Rules 4 and 5.
#[test]
fn topics_change_with_the_version_and_come_from_the_master() {
    check(
        "0 reg 0 A topics=T:6,U:6
         1 reg 0 A topics=T:4,U:4
         2 reg 0 A v=1 topics=T:4,U:4
         3 del T
         4 reg 0 A v=1 topics=T:6,U:6
         5 reg 1 B v=9 topics=T:2,X:6
         6 reg 1 B v=9 topics=T:2,X:6 acting=false
         7 close 65
         8 reg 1 B v=10 topics=T:2,X:6
         9 reg 1 B v=11 topics=T:2,X:6 acting=false",
        "0 reg 0 A topics=T:6,U:6 -> ok | b{0=A} T:6 U:6
         1 reg 0 A topics=T:4,U:4 -> ok | b{0=A} T:6 U:6
         2 reg 0 A v=1 topics=T:4,U:4 -> ok | b{0=A} T:4 U:4
         3 del T -> ok | b{0=A} U:4
         4 reg 0 A v=1 topics=T:6,U:6 -> ok | b{0=A} T:6 U:4
         5 reg 1 B v=9 topics=T:2,X:6 -> A:1 ha-A | b{0=A 1=B} T:6 U:4
         6 reg 1 B v=9 topics=T:2,X:6 acting=false -> A:1 ha-A | b{0=A 1=B} T:6 U:4
         7 close 65 -> ok | b{1=B} T:6 U:4
         8 reg 1 B v=10 topics=T:2,X:6 -> ok | b{1=B} T:6 U:4
         9 reg 1 B v=11 topics=T:2,X:6 acting=false -> ok | b{1=B} T:2 U:4 X:6",
    );
}

#[test]
fn absent_topics_go_only_if_asked() {
    check_with(
        RouteOptions { delete_topic_with_broker_registration: true, ..RouteOptions::default() },
        "0 reg 0 A topics=T:6,U:6
         1 reg 0 C b=d topics=T:6,W:6
         2 reg 0 A v=1 topics=U:6,V:6",
        "0 reg 0 A topics=T:6,U:6 -> ok | b{0=A} T:6 U:6
         1 reg 0 C b=d topics=T:6,W:6 -> ok | b{0=A} d{0=C} T:6/6 U:6 W:6
         2 reg 0 A v=1 topics=U:6,V:6 -> ok | b{0=A} d{0=C} T:6 U:6 V:6 W:6",
    );
}

#[test]
fn an_acting_master_is_read_only_and_shown_where_supported() {
    let script = "0 reg 0 A acting=true
                  1 reg 2 B acting=true
                  2 reg 3 C acting=true
                  3 close 65
                  4 route T
                  5 reg 2 B v=1 acting=true
                  6 reg 0 A v=1 acting=true
                  7 route T";
    check(
        script,
        "0 reg 0 A acting=true -> ok | b{0=A} T:6 U:6
         1 reg 2 B acting=true -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         2 reg 3 C acting=true -> A:1 ha-A | b{0=A 2=B 3=C} T:6 U:6
         3 close 65 -> ok | b{2=B 3=C} T:4 U:4
         4 route T -> {2: \"B:1\", 3: \"C:1\"} | b{2=B 3=C} T:4 U:4
         5 reg 2 B v=1 acting=true -> ok | b{2=B 3=C} T:4 U:4
         6 reg 0 A v=1 acting=true -> ok | b{0=A 2=B 3=C} T:6 U:6
         7 route T -> {0: \"A:1\", 2: \"B:1\", 3: \"C:1\"} | b{0=A 2=B 3=C} T:6 U:6",
    );
    let mut routes = Routes::default();
    let options = RouteOptions { support_acting_master: true, ..RouteOptions::default() };
    let shown: Vec<String> = script.lines().map(|line| step(&mut routes, options, line.trim())).collect();
    assert_eq!(shown[4], "{0: \"B:1\", 3: \"C:1\"}");
}

#[test]
fn permissions_by_hand_last_until_a_changed_registration() {
    check(
        "0 reg 0 A topics=T:7,U:4
         1 wipe
         2 reg 0 A topics=T:7,U:4
         3 add
         4 reg 0 A v=1 topics=T:7,U:4",
        "0 reg 0 A topics=T:7,U:4 -> ok | b{0=A} T:7 U:4
         1 wipe -> 2 | b{0=A} T:5 U:4
         2 reg 0 A topics=T:7,U:4 -> ok | b{0=A} T:5 U:4
         3 add -> 2 | b{0=A} T:6 U:6
         4 reg 0 A v=1 topics=T:7,U:4 -> ok | b{0=A} T:7 U:4",
    );
}

#[test]
fn silence_ends_a_registration() {
    check(
        "0 reg 0 A
         0 reg 1 B ms=10000
         0 reg 0 D b=d conn=65
         10000 tick
         10001 tick
         60000 beat A
         120001 tick
         120002 reg 0 D b=d conn=65
         180000 tick
         180001 tick
         999999 tick",
        "0 reg 0 A -> ok | b{0=A} T:6 U:6
         0 reg 1 B ms=10000 -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         0 reg 0 D b=d conn=65 -> ok | b{0=A 1=B} d{0=D} T:6/6 U:6/6
         10000 tick -> [] | b{0=A 1=B} d{0=D} T:6/6 U:6/6
         10001 tick -> [66] | b{0=A} d{0=D} T:6/6 U:6/6
         60000 beat A -> ok | b{0=A} d{0=D} T:6/6 U:6/6
         120001 tick -> [] | b{0=A} T:6 U:6
         120002 reg 0 D b=d conn=65 -> ok | b{0=A} d{0=D} T:6/6 U:6/6
         180000 tick -> [] | b{0=A} d{0=D} T:6/6 U:6/6
         180001 tick -> [] | d{0=D} T:6 U:6
         999999 tick -> [65] |",
    );
}

/// The old connection of a broker that has come back ends nothing.
#[test]
fn a_connection_ends_what_came_over_it_last() {
    check(
        "0 reg 0 A conn=1
         1 reg 0 A conn=2
         2 close 1
         3 reg 0 D b=d conn=2
         4 close 2",
        "0 reg 0 A conn=1 -> ok | b{0=A} T:6 U:6
         1 reg 0 A conn=2 -> ok | b{0=A} T:6 U:6
         2 close 1 -> ok | b{0=A} T:6 U:6
         3 reg 0 D b=d conn=2 -> ok | b{0=A} d{0=D} T:6/6 U:6/6
         4 close 2 -> ok |",
    );
}

/// Rule 8: by address, so that an ex-leader takes nobody else along; whatever id and connection it says so with.
#[test]
fn unregistering_goes_by_address() {
    check(
        "0 reg 0 A
         1 reg 1 B
         2 reg 0 B v=1
         3 unreg 0 A
         4 unreg 1 B conn=7",
        "0 reg 0 A -> ok | b{0=A} T:6 U:6
         1 reg 1 B -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         2 reg 0 B v=1 -> ok | b{0=B} T:6 U:6
         3 unreg 0 A -> ok | b{0=B} T:6 U:6
         4 unreg 1 B conn=7 -> ok |",
    );
}

/// DLedger groups send state version 0: nothing is held, nothing fenced.
#[test]
fn apache_groups_get_no_hold() {
    check(
        "0 reg 0 A
         0 reg 2 B
         1 reg 1 A v=1
         2 reg 0 B v=1
         3 close 66
         4 reg 0 A v=0",
        "0 reg 0 A -> ok | b{0=A} T:6 U:6
         0 reg 2 B -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         1 reg 1 A v=1 -> ok | b{1=A 2=B} T:6 U:6
         2 reg 0 B v=1 -> ok | b{0=B 1=A} T:6 U:6
         3 close 66 -> ok | b{1=A} T:6 U:6
         4 reg 0 A v=0 -> ok | b{0=A} T:6 U:6",
    );
}

// Ours: groups that send the Raft term.

#[test]
fn a_dead_leader_keeps_its_place_until_its_successor_comes() {
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         0 reg 3 C t=5
         100 close 65
         101 route T
         900 reg 0 B t=6
         5200 tick",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         0 reg 3 C t=5 -> A:1 ha-A | b{0=A 2=B 3=C} T:6 U:6
         100 close 65 -> ok | b{0*=A 2=B 3=C} T:6 U:6
         101 route T -> {0: \"A:1\", 2: \"B:1\", 3: \"C:1\"} | b{0*=A 2=B 3=C} T:6 U:6
         900 reg 0 B t=6 -> ok | b{0=B 3=C} T:6 U:6
         5200 tick -> [] | b{0=B 3=C} T:6 U:6",
    );
}

#[test]
fn a_hold_lasts_five_seconds_and_needs_a_living_member() {
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         100 close 65
         5099 tick
         5100 tick
         6000 reg 0 B t=6
         7000 close 66",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         100 close 65 -> ok | b{0*=A 2=B} T:6 U:6
         5099 tick -> [] | b{0*=A 2=B} T:6 U:6
         5100 tick -> [] | b{2=B} T:6 U:6
         6000 reg 0 B t=6 -> ok | b{0=B} T:6 U:6
         7000 close 66 -> ok |",
    );
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         100 close 65
         200 close 66",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         100 close 65 -> ok | b{0*=A 2=B} T:6 U:6
         200 close 66 -> ok |",
    );
}

/// A silent leader is held as well; an explicit goodbye (104) is not.
#[test]
fn silence_is_held_and_goodbye_is_not() {
    check(
        "0 reg 0 A t=5
         60000 reg 2 B t=5
         120001 tick
         125000 tick
         125001 tick",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         60000 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         120001 tick -> [65] | b{0*=A 2=B} T:6 U:6
         125000 tick -> [] | b{0*=A 2=B} T:6 U:6
         125001 tick -> [] | b{2=B} T:6 U:6",
    );
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         1 unreg 0 A",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         1 unreg 0 A -> ok | b{2=B} T:6 U:6",
    );
}

/// A leader that steps down, or comes back as a follower before its successor has registered, keeps
/// id 0 (it forwards) and gets its own id afterwards.
#[test]
fn an_ex_leader_waits_for_its_successor() {
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         100 reg 1 A t=6
         200 reg 1 A t=6
         300 reg 0 B t=6
         400 reg 1 A t=6",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         100 reg 1 A t=6 -> A:1 ha-A | b{0*=A 2=B} T:6 U:6
         200 reg 1 A t=6 -> A:1 ha-A | b{0*=A 2=B} T:6 U:6
         300 reg 0 B t=6 -> ok | b{0=B 1=A} T:6 U:6
         400 reg 1 A t=6 -> B:1 ha-B | b{0=B 1=A} T:6 U:6",
    );
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         100 close 65
         300 reg 1 A t=5
         400 reg 0 A t=6",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         100 close 65 -> ok | b{0*=A 2=B} T:6 U:6
         300 reg 1 A t=5 -> A:1 ha-A | b{0*=A 2=B} T:6 U:6
         400 reg 0 A t=6 -> ok | b{0=A 2=B} T:6 U:6",
    );
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         100 close 65
         300 reg 1 A t=5
         5099 tick
         5100 tick",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         100 close 65 -> ok | b{0*=A 2=B} T:6 U:6
         300 reg 1 A t=5 -> A:1 ha-A | b{0*=A 2=B} T:6 U:6
         5099 tick -> [] | b{0*=A 2=B} T:6 U:6
         5100 tick -> [] | b{1=A 2=B} T:6 U:6",
    );
}

/// A single node has nobody who could take over.
#[test]
fn a_lone_leader_is_not_held() {
    check(
        "0 reg 0 A t=5
         1 reg 1 A t=6
         2 reg 0 A t=6
         3 close 65",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         1 reg 1 A t=6 -> ok | b{1=A} T:6 U:6
         2 reg 0 A t=6 -> ok | b{0=A} T:6 U:6
         3 close 65 -> ok |",
    );
}

/// The case that upstream loses: a registration that its sender made as a follower arrives after the
/// one it made as the leader.
#[test]
fn a_late_registration_of_the_new_leader_takes_nothing_away() {
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         100 close 65
         200 reg 0 B t=6
         300 reg 2 B t=5
         400 tick",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         100 close 65 -> ok | b{0*=A 2=B} T:6 U:6
         200 reg 0 B t=6 -> ok | b{0=B} T:6 U:6
         300 reg 2 B t=5 -> fenced | b{0=B} T:6 U:6
         400 tick -> [] | b{0=B} T:6 U:6",
    );
}

/// A deposed leader that can reach us but not its group.
#[test]
fn a_deposed_leader_is_ignored_even_when_its_successor_is_gone() {
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         0 reg 3 C t=5
         100 reg 0 B t=6 topics=T:4,U:6
         200 reg 0 A t=5 v=9
         300 close 66
         400 reg 0 A t=5 v=9
         5300 tick
         5400 reg 0 A t=5 v=9
         5500 reg 1 A t=5
         5600 reg 0 C t=7
         5700 reg 0 A t=6 v=9",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         0 reg 3 C t=5 -> A:1 ha-A | b{0=A 2=B 3=C} T:6 U:6
         100 reg 0 B t=6 topics=T:4,U:6 -> ok | b{0=B 3=C} T:4 U:6
         200 reg 0 A t=5 v=9 -> fenced | b{0=B 3=C} T:4 U:6
         300 close 66 -> ok | b{0*=B 3=C} T:4 U:6
         400 reg 0 A t=5 v=9 -> fenced | b{0*=B 3=C} T:4 U:6
         5300 tick -> [] | b{3=C} T:4 U:6
         5400 reg 0 A t=5 v=9 -> fenced | b{3=C} T:4 U:6
         5500 reg 1 A t=5 -> ok | b{1=A 3=C} T:4 U:6
         5600 reg 0 C t=7 -> ok | b{0=C 1=A} T:6 U:6
         5700 reg 0 A t=6 v=9 -> fenced | b{0=C 1=A} T:6 U:6",
    );
}

/// All leaders of a group have one address, V (`advertise_leader`), over connections of their own: the one that was
/// deposed, with connection 1, takes nothing back, also when its successor's registration has ended.
#[test]
fn a_shared_address_does_not_lead_around_the_fence() {
    check(
        "0 reg 0 V t=5 conn=1
         0 reg 2 B t=5
         0 reg 3 C t=5
         100 reg 0 V t=6 conn=66
         101 unreg 2 B
         200 reg 0 V t=5 conn=1 v=9
         300 close 66
         400 reg 0 V t=5 conn=1 v=9
         5300 tick
         5400 reg 0 V t=5 conn=1 v=9
         5500 reg 0 V t=7 conn=67
         5501 unreg 3 C",
        "0 reg 0 V t=5 conn=1 -> ok | b{0=V} T:6 U:6
         0 reg 2 B t=5 -> V:1 ha-V | b{0=V 2=B} T:6 U:6
         0 reg 3 C t=5 -> V:1 ha-V | b{0=V 2=B 3=C} T:6 U:6
         100 reg 0 V t=6 conn=66 -> ok | b{0=V 2=B 3=C} T:6 U:6
         101 unreg 2 B -> ok | b{0=V 3=C} T:6 U:6
         200 reg 0 V t=5 conn=1 v=9 -> fenced | b{0=V 3=C} T:6 U:6
         300 close 66 -> ok | b{0*=V 3=C} T:6 U:6
         400 reg 0 V t=5 conn=1 v=9 -> fenced | b{0*=V 3=C} T:6 U:6
         5300 tick -> [] | b{3=C} T:6 U:6
         5400 reg 0 V t=5 conn=1 v=9 -> fenced | b{3=C} T:6 U:6
         5500 reg 0 V t=7 conn=67 -> ok | b{0=V 3=C} T:6 U:6
         5501 unreg 3 C -> ok | b{0=V} T:6 U:6",
    );
}

/// While a member lives that has said a higher term, no time makes an older one good.
#[test]
fn a_term_does_not_fall_while_somebody_knows_it() {
    check(
        "0 reg 0 A t=9
         0 reg 1 B t=10 ms=999999
         10 close 65
         5010 tick
         300000 reg 0 A t=8
         300001 reg 0 A t=9",
        "0 reg 0 A t=9 -> ok | b{0=A} T:6 U:6
         0 reg 1 B t=10 ms=999999 -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         10 close 65 -> ok | b{0*=A 1=B} T:6 U:6
         5010 tick -> [] | b{1=B} T:6 U:6
         300000 reg 0 A t=8 -> fenced | b{1=B} T:6 U:6
         300001 reg 0 A t=9 -> ok | b{0=A 1=B} T:6 U:6",
    );
}

/// 104 of groups with terms: under the id that the address has, and for id 0 over the connection that carries it.
#[test]
fn a_late_goodbye_takes_nothing_from_a_newer_leader() {
    check(
        "0 reg 0 V t=5 conn=65
         0 reg 2 B t=5
         100 reg 1 A t=6
         200 unreg 0 V conn=65
         300 reg 0 V t=6 conn=66
         400 unreg 2 B
         500 unreg 2 A",
        "0 reg 0 V t=5 conn=65 -> ok | b{0=V} T:6 U:6
         0 reg 2 B t=5 -> V:1 ha-V | b{0=V 2=B} T:6 U:6
         100 reg 1 A t=6 -> V:1 ha-V | b{0=V 1=A 2=B} T:6 U:6
         200 unreg 0 V conn=65 -> ok | b{1=A 2=B} T:6 U:6
         300 reg 0 V t=6 conn=66 -> ok | b{0=V 1=A 2=B} T:6 U:6
         400 unreg 2 B -> ok | b{0=V 1=A} T:6 U:6
         500 unreg 2 A -> ignored | b{0=V 1=A} T:6 U:6",
    );
    check(
        "0 reg 0 V t=5 conn=65
         0 reg 2 B t=5
         100 reg 0 V t=6 conn=66
         200 unreg 0 V conn=65
         201 unreg 1 V conn=66
         300 close 65
         400 close 66
         500 unreg 0 V conn=66",
        "0 reg 0 V t=5 conn=65 -> ok | b{0=V} T:6 U:6
         0 reg 2 B t=5 -> V:1 ha-V | b{0=V 2=B} T:6 U:6
         100 reg 0 V t=6 conn=66 -> ok | b{0=V 2=B} T:6 U:6
         200 unreg 0 V conn=65 -> ignored | b{0=V 2=B} T:6 U:6
         201 unreg 1 V conn=66 -> ignored | b{0=V 2=B} T:6 U:6
         300 close 65 -> ok | b{0=V 2=B} T:6 U:6
         400 close 66 -> ok |
         500 unreg 0 V conn=66 -> ok |",
    );
    // An ex-leader that is held under id 0 has an id of its own.
    check(
        "0 reg 0 A t=5
         0 reg 2 B t=5
         100 reg 1 A t=6
         200 unreg 3 A
         300 unreg 1 A",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         0 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         100 reg 1 A t=6 -> A:1 ha-A | b{0*=A 2=B} T:6 U:6
         200 unreg 3 A -> ignored | b{0*=A 2=B} T:6 U:6
         300 unreg 1 A -> ok | b{2=B} T:6 U:6",
    );
}

/// A term that nobody knows any more is forgotten: a group made anew under its old name, or one that
/// went from controller mode back to none.
#[test]
fn a_term_is_forgotten_with_those_who_knew_it() {
    check(
        "0 reg 0 A t=9
         1 close 65
         2 reg 0 A t=1",
        "0 reg 0 A t=9 -> ok | b{0=A} T:6 U:6
         1 close 65 -> ok |
         2 reg 0 A t=1 -> ok | b{0=A} T:6 U:6",
    );
    check(
        "0 reg 0 A t=9
         0 reg 1 B t=9
         100 close 65
         5100 tick
         6000 close 66
         6000 reg 1 B
         7000 reg 0 A
         100000 reg 1 B
         120000 reg 0 A",
        "0 reg 0 A t=9 -> ok | b{0=A} T:6 U:6
         0 reg 1 B t=9 -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         100 close 65 -> ok | b{0*=A 1=B} T:6 U:6
         5100 tick -> [] | b{1=B} T:6 U:6
         6000 close 66 -> ok |
         6000 reg 1 B -> ok | b{1=B}
         7000 reg 0 A -> ok | b{0=A 1=B} T:6 U:6
         100000 reg 1 B -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         120000 reg 0 A -> ok | b{0=A 1=B} T:6 U:6",
    );
    check(
        "0 reg 0 A t=9
         0 reg 1 B t=9
         10 close 65
         5010 tick
         6000 reg 2 C
         7000 close 66
         7001 reg 1 B
         8000 reg 0 A
         90000 reg 2 C
         90000 reg 1 B
         120000 reg 0 A",
        "0 reg 0 A t=9 -> ok | b{0=A} T:6 U:6
         0 reg 1 B t=9 -> A:1 ha-A | b{0=A 1=B} T:6 U:6
         10 close 65 -> ok | b{0*=A 1=B} T:6 U:6
         5010 tick -> [] | b{1=B} T:6 U:6
         6000 reg 2 C -> ok | b{1=B 2=C} T:6 U:6
         7000 close 66 -> ok | b{2=C} T:6 U:6
         7001 reg 1 B -> ok | b{1=B 2=C} T:6 U:6
         8000 reg 0 A -> fenced | b{1=B 2=C} T:6 U:6
         90000 reg 2 C -> ok | b{1=B 2=C} T:6 U:6
         90000 reg 1 B -> ok | b{1=B 2=C} T:6 U:6
         120000 reg 0 A -> ok | b{0=A 1=B 2=C} T:6 U:6",
    );
}

/// Upstream's fence for any id: two addresses want the same one.
#[test]
fn the_higher_term_keeps_an_id() {
    check(
        "0 reg 0 A t=5
         1 reg 2 B t=5
         2 reg 2 D t=4
         3 reg 2 D t=5",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         1 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         2 reg 2 D t=4 -> fenced | b{0=A 2=B} T:6 U:6
         3 reg 2 D t=5 -> A:1 ha-A | b{0=A 2=D} T:6 U:6",
    );
}

/// Followers may lag behind the term: they stay members.
#[test]
fn a_follower_of_an_older_term_is_a_member() {
    check(
        "0 reg 0 A t=5
         1 reg 2 B t=4
         2 reg 2 B t=5
         3 reg 2 B t=4",
        "0 reg 0 A t=5 -> ok | b{0=A} T:6 U:6
         1 reg 2 B t=4 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         2 reg 2 B t=5 -> A:1 ha-A | b{0=A 2=B} T:6 U:6
         3 reg 2 B t=4 -> fenced | b{0=A 2=B} T:6 U:6",
    );
}

// Everything else.

#[test]
fn names_are_checked_and_odd_topics_left_out() {
    let mut routes = Routes::default();
    let good = || registration(&["0", "A"]);
    let refused = |change: fn(&mut Registration)| {
        let mut registration = good();
        change(&mut registration);
        Routes::default().register(0, RouteOptions::default(), registration).unwrap_err().to_string()
    };
    assert!(refused(|r| r.cluster = "../x".into()).contains("clusterName"));
    assert!(refused(|r| r.broker_name = "a\"b".into()).contains("brokerName"));
    assert!(refused(|r| r.broker_name = String::new()).contains("brokerName"));
    assert!(refused(|r| r.broker_addr = "nowhere".into()).contains("brokerAddr"));
    assert!(refused(|r| r.ha_server_addr = "a\0b".into()).contains("haServerAddr"));
    assert!(refused(|r| r.zone = Some("z\n".into())).contains("zoneName"));
    assert!(refused(|r| r.broker_id = -1).contains("brokerId"));
    assert!(refused(|r| r.broker_name = "x".repeat(10_000_000)).len() < 200);
    let mut odd = good();
    for topic in ["../../etc", "a b", "", "ü"] {
        odd.topics.topic_config_table.insert(topic.into(), TopicConfig::new(topic, 1, 6));
    }
    odd.topics.topic_config_table.insert("key".into(), TopicConfig::new("other", 1, 6));
    routes.register(0, RouteOptions::default(), odd).unwrap();
    routes.check();
    assert_eq!(routes.topics().topic_list, ["T", "U"]);
}

#[test]
fn lists() {
    let mut routes = Routes::default();
    let options = RouteOptions::default();
    for line in
        ["0 reg 0 A", "0 reg 1 B", "0 reg 0 D b=d topics=T:6,V:6 zone=z1", "0 reg 0 E b=e c=k topics=W:6,V:6"]
    {
        step(&mut routes, options, line);
    }
    let list = |list: TopicList| list.topic_list.join(" ");
    assert_eq!(list(routes.topics()), "T U V W");
    assert_eq!(list(routes.topics_of_cluster("c")), "T U V");
    assert_eq!(list(routes.topics_of_cluster("k")), "V W");
    assert_eq!(list(routes.topics_of_cluster("nowhere")), "");
    assert_eq!(list(routes.system_topics()), "b c d e k");
    assert_eq!(routes.system_topics().broker_addr.as_deref(), Some("A:1"));
    let info = routes.cluster_info();
    assert_eq!(info.cluster_addr_table["c"], ["b", "d"]);
    assert_eq!(info.broker_addr_table["b"].broker_addrs[&1], "B:1");
    assert_eq!(routes.member_group("c", "b").broker_addrs.len(), 2);
    assert!(routes.member_group("c", "x").broker_addrs.is_empty());
    assert_eq!(routes.data_version("c", "A:1"), Some(DataVersion::default()));
    assert_eq!(routes.data_version("c", "X:1"), None);

    let mut route = routes.route(options, "T").unwrap();
    assert_eq!(route.broker_datas.len(), 2);
    filter_by_zone(&mut route, "Z1");
    let names: Vec<_> = route.broker_datas.iter().map(|data| data.broker_name.as_str()).collect();
    assert_eq!(names, ["d"]);
    assert_eq!(route.queue_datas.len(), 1);
    // Without its master a group is shown to every zone.
    step(&mut routes, options, "1 unreg 0 A");
    let mut route = routes.route(options, "T").unwrap();
    filter_by_zone(&mut route, "z1");
    assert_eq!(route.broker_datas.len(), 2);

    routes.delete_topic("V", Some("nowhere"));
    assert_eq!(routes.route(options, "V").unwrap().queue_datas.len(), 2);
    routes.delete_topic("V", Some("k"));
    assert_eq!(routes.route(options, "V").unwrap().queue_datas.len(), 1);
    routes.delete_topic("V", None);
    assert_eq!(routes.route(options, "V"), None);
    routes.check();

    let snapshot = routes.snapshot(7);
    assert_eq!(snapshot.topics, 3);
    assert_eq!(
        snapshot.brokers[0].members,
        [MemberSnapshot {
            id: 1,
            addr: "B:1".into(),
            silent_ms: Some(7),
            timeout_ms: Some(120_000),
            version: Some(DataVersion::default()),
        }]
    );
    assert_eq!(snapshot.counts.registered_total, 4);
}

#[test]
fn unit_topics_go_by_the_flag() {
    let mut routes = Routes::default();
    let mut all = registration(&["0", "A", "topics="]);
    for (name, flag) in [("none", 0), ("unit", 1), ("sub", 2), ("both", 3)] {
        let config = TopicConfig { topic_sys_flag: flag, ..TopicConfig::new(name, 1, 6) };
        all.topics.topic_config_table.insert(name.into(), config);
    }
    routes.register(0, RouteOptions::default(), all).unwrap();
    let list = |which| routes.unit_topics(which).topic_list.join(" ");
    assert_eq!(list(UnitTopics::Unit), "both unit");
    assert_eq!(list(UnitTopics::HasUnitSub), "both sub");
    assert_eq!(list(UnitTopics::HasUnitSubNotUnit), "sub");
}

#[test]
fn topics_by_hand_need_known_brokers() {
    let mut routes = Routes::default();
    step(&mut routes, RouteOptions::default(), "0 reg 0 A");
    let data = |broker: &str| QueueData { broker_name: broker.into(), perm: 6, ..QueueData::default() };
    routes.register_topic("new", vec![data("b"), data("x")]).unwrap();
    assert_eq!(routes.route(RouteOptions::default(), "new"), None);
    routes.register_topic("new", vec![data("b")]).unwrap();
    assert!(routes.route(RouteOptions::default(), "new").is_some());
    routes.register_topic("T", vec![QueueData { perm: 4, ..data("b") }]).unwrap();
    assert_eq!(routes.route(RouteOptions::default(), "T").unwrap().queue_datas[0].perm, 4);
    assert!(routes.register_topic("../x", vec![data("b")]).is_err());
    routes.check();
}

#[test]
fn filter_servers_and_mappings_travel_with_the_route() {
    let mut routes = Routes::default();
    let mut full = registration(&["0", "A"]);
    full.filter_servers = Some(vec!["F:1".into()]);
    full.topics
        .topic_queue_mapping_info_map
        .insert("T".into(), serde_json::json!({"bname": "b", "topic": "T", "totalQueues": 8}));
    routes.register(0, RouteOptions::default(), full.clone()).unwrap();
    let route = routes.route(RouteOptions::default(), "T").unwrap();
    assert_eq!(route.filter_server_table["A:1"], ["F:1"]);
    assert_eq!(route.topic_queue_mapping_by_broker.unwrap()["b"]["totalQueues"], 8);
    assert_eq!(routes.route(RouteOptions::default(), "U").unwrap().topic_queue_mapping_by_broker, None);
    full.filter_servers = Some(vec!["no address".into()]);
    assert!(routes.register(0, RouteOptions::default(), full).is_err());
    routes.connection_closed(1, 65);
    assert!(routes.mappings.is_empty() && routes.filter_servers.is_empty());
}

/// Whatever comes, in whatever order, the tables fit together.
#[test]
fn random_events_keep_the_tables_consistent() {
    let mut seed = 1_u64;
    let mut random = move |end: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % end
    };
    let mut routes = Routes::default();
    let mut now = 0;
    for _ in 0..20_000 {
        now += random(3000);
        let addr = ["A", "B", "C", "D"][random(4) as usize];
        let line = match random(10) {
            0..=5 => format!(
                "{now} reg {} {addr} b={} t={} v={} conn={} topics={} {}",
                random(4),
                ["b", "d"][random(2) as usize],
                random(4),
                random(3),
                random(5),
                ["T:6,U:6", "T:4", "", "U:6,V:6,W:2"][random(4) as usize],
                ["", "acting=true", "acting=false", "ms=5000"][random(4) as usize],
            ),
            6 => format!("{now} close {}", random(5)),
            7 => format!("{now} tick"),
            8 => format!("{now} unreg {} {addr} conn={}", random(4), random(5)),
            _ => format!("{now} {}", ["wipe", "add", "del T", "del U c", "route T"][random(5) as usize]),
        };
        let options =
            RouteOptions { delete_topic_with_broker_registration: random(4) == 0, ..Default::default() };
        step(&mut routes, options, &line);
        routes.check();
    }
    assert!(routes.counts.held_total > 100 && routes.counts.fenced_total > 100, "{:?}", routes.counts);
    routes.tick(now + 10_000_000);
    routes.tick(now + 20_000_000);
    assert!(routes.brokers.is_empty() && routes.topics.is_empty() && routes.alive.is_empty(), "{routes:?}");
}

//! What clients did, and what must hold of it. Every rule is a plain function over two lists; each has a test that
//! shows it failing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use serde::Deserialize;

/// One send, as tests/java/raftmq/Send.java prints it. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Send {
    /// sync, async, oneway, batch, pinned …
    pub mode: String,
    #[serde(default)]
    pub topic: String,
    /// The bodies; several for a batch.
    pub values: Vec<String>,
    /// What the client said. A one-way send is `ok` when the client raised nothing.
    pub ok: bool,
    pub error: Option<String>,
    /// Where it was stored; `None` for one-way and failed sends.
    #[serde(flatten)]
    pub place: Option<Place>,
    pub msg_id: Option<String>,
    pub offset_msg_id: Option<String>,
    pub start: i64,
    pub end: i64,
}

/// A message's address. Ordered by queue, then offset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Place {
    pub broker: String,
    pub queue: u32,
    pub offset: i64,
}

impl Place {
    fn queue_name(&self) -> String {
        format!("{}/{}", self.broker, self.queue)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.broker, self.queue, self.offset)
    }
}

/// One delivery to a listener, as Consume.java prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Delivery {
    pub value: String,
    /// The consumer's group.
    #[serde(default)]
    pub group: String,
    pub topic: String,
    #[serde(flatten)]
    pub place: Place,
    pub tags: Option<String>,
    pub keys: Option<String>,
    pub msg_id: String,
    pub size: usize,
    /// Whether the padding of a large body is what was sent.
    #[serde(default)]
    pub intact: bool,
    /// How often it had been delivered before, as the broker counts.
    pub attempt: u32,
    #[serde(default)]
    pub born_ms: i64,
    /// When the copy that was delivered was stored, in milliseconds since 1970.
    pub stored_ms: i64,
    pub at: i64,
    /// Only with `--properties`.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

impl Send {
    /// Each value of an acknowledged send with the place that the acknowledgement named.
    fn stored(&self) -> impl Iterator<Item = (&str, Place)> {
        let place = self.place.as_ref().filter(|_| self.ok);
        place.into_iter().flat_map(|first| {
            (0..)
                .zip(&self.values)
                .map(|(n, value)| (value.as_str(), Place { offset: first.offset + n, ..first.clone() }))
        })
    }
}

/// The sends of one mode.
pub fn of_mode(sends: &[Send], mode: &str) -> Vec<Send> {
    sends.iter().filter(|send| send.mode == mode).cloned().collect()
}

/// The values of sends that the client called a success.
pub fn sent(sends: &[Send]) -> BTreeSet<String> {
    sends.iter().filter(|send| send.ok).flat_map(|send| send.values.clone()).collect()
}

/// The values that were delivered.
pub fn values(deliveries: &[Delivery]) -> BTreeSet<String> {
    deliveries.iter().map(|delivery| delivery.value.clone()).collect()
}

/// Acknowledged values that nobody received. One-way sends are never acknowledged.
pub fn lost(sends: &[Send], deliveries: &[Delivery]) -> Vec<String> {
    let seen: HashSet<&str> = deliveries.iter().map(|d| d.value.as_str()).collect();
    let acknowledged = sends.iter().flat_map(Send::stored);
    acknowledged
        .filter(|(value, _)| !seen.contains(value))
        .map(|(value, at)| format!("{value} of {at}"))
        .collect()
}

/// Values of one-way sends that nobody received: allowed, to be reported.
pub fn lost_oneway(sends: &[Send], deliveries: &[Delivery]) -> usize {
    let seen: HashSet<&str> = deliveries.iter().map(|d| d.value.as_str()).collect();
    let sent = sends.iter().filter(|send| send.ok && send.place.is_none()).flat_map(|send| &send.values);
    sent.filter(|value| !seen.contains(value.as_str())).count()
}

/// Values that were delivered and never sent.
pub fn unexpected(sends: &[Send], deliveries: &[Delivery]) -> Vec<String> {
    let sent: HashSet<&str> = sends.iter().flat_map(|send| &send.values).map(String::as_str).collect();
    let strange = deliveries.iter().filter(|d| !sent.contains(d.value.as_str()));
    strange.map(|d| format!("{} of {}", d.value, d.place)).collect()
}

/// Places that two values claim, by acknowledgement or by delivery.
pub fn contradictions(sends: &[Send], deliveries: &[Delivery]) -> Vec<String> {
    let acknowledged = sends.iter().flat_map(Send::stored);
    let delivered = deliveries.iter().map(|d| (d.value.as_str(), d.place.clone()));
    let mut owner: HashMap<Place, &str> = HashMap::new();
    let mut found = Vec::new();
    for (value, place) in acknowledged.chain(delivered) {
        match owner.get(&place) {
            Some(other) if *other != value => found.push(format!("{place} holds {other} and {value}")),
            Some(_) => {}
            None => {
                owner.insert(place, value);
            }
        }
    }
    found
}

/// Offsets that a consumer passed over: between the first and the last that it received of a queue, none may be
/// missing. For consumers that take every tag; offsets of a queue have no holes.
pub fn skipped(deliveries: &[Delivery]) -> Vec<String> {
    let mut queues: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for delivery in deliveries {
        queues.entry(delivery.place.queue_name()).or_default().insert(delivery.place.offset);
    }
    let mut found = Vec::new();
    for (queue, offsets) in queues {
        let mut next = None;
        for offset in offsets {
            if let Some(expected) = next.filter(|&expected| expected < offset) {
                found.push(format!("{queue} {expected}..{offset}"));
            }
            next = Some(offset + 1);
        }
    }
    found
}

/// Hops forward in a queue: a consumer of ordered messages may go back, and get some again, but goes on one by one.
pub fn out_of_order(deliveries: &[Delivery]) -> Vec<String> {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let mut found = Vec::new();
    for Delivery { place, .. } in deliveries {
        let last = last.insert(place.queue_name(), place.offset);
        if let Some(last) = last.filter(|last| place.offset > last + 1) {
            found.push(format!("{place} after {last}"));
        }
    }
    found
}

/// The acknowledged transactions that were decided to be committed, sooner or later.
pub fn committed(sends: &[Send]) -> BTreeSet<String> {
    let mut committed = sent(sends);
    committed.retain(|value| value.contains("commit"));
    committed
}

/// The deliveries of an attempt: 0 for the first, then one for each retry.
pub fn attempt(deliveries: &[Delivery], n: u32) -> Vec<Delivery> {
    deliveries.iter().filter(|delivery| delivery.attempt == n).cloned().collect()
}

/// How often something arrived again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Values stored at more than one place: a client sent again what it did not know to be stored.
    pub stored: usize,
    /// Deliveries of a place that had been delivered before.
    pub delivered: usize,
}

pub fn duplicates(deliveries: &[Delivery]) -> Duplicates {
    let mut places: HashMap<&str, HashSet<&Place>> = HashMap::new();
    let mut count = Duplicates::default();
    for delivery in deliveries {
        let of_value = places.entry(&delivery.value).or_default();
        if !of_value.insert(&delivery.place) {
            count.delivered += 1;
        } else if of_value.len() > 1 {
            count.stored += 1;
        }
    }
    count
}

/// The longest time without a success in nanoseconds, and when it began: between the start of the first send, the
/// successes, and the end of the last send. `None` without sends.
pub fn longest_gap(sends: &[Send]) -> Option<(i64, i64)> {
    let first = sends.iter().map(|send| send.start).min()?;
    let last = sends.iter().map(|send| send.end).max()?;
    let mut moments: Vec<i64> = sends.iter().filter(|send| send.ok).map(|send| send.end).collect();
    moments.extend([first, last]);
    moments.sort_unstable();
    moments.windows(2).map(|pair| (pair[1] - pair[0], pair[0])).max_by_key(|&(gap, _)| gap)
}

/// The longest wait between two deliveries of one queue while it had a message to deliver, in nanoseconds: from the
/// moment a message was acknowledged (or the delivery before, if later) to its first delivery.
pub fn longest_wait(sends: &[Send], deliveries: &[Delivery]) -> i64 {
    let mut acknowledged: HashMap<Place, i64> = HashMap::new();
    for send in sends {
        acknowledged.extend(send.stored().map(|(_, place)| (place, send.end)));
    }
    let mut first_at: BTreeMap<&Place, i64> = BTreeMap::new();
    for delivery in deliveries {
        let at = first_at.entry(&delivery.place).or_insert(delivery.at);
        *at = delivery.at.min(*at);
    }
    let mut longest = 0;
    let mut before: Option<(&Place, i64)> = None;
    for (place, at) in first_at {
        let same_queue = before.filter(|(p, _)| p.broker == place.broker && p.queue == place.queue);
        let since = acknowledged.get(place).copied().max(same_queue.map(|(_, at)| at));
        longest = longest.max(since.map_or(0, |since| at - since));
        before = Some((place, at));
    }
    longest
}

/// How delayed messages kept their time, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punctuality {
    /// From the earliest moment that a message may have been due at to its delivery; negative is early for sure.
    pub soonest: i64,
    /// From the latest moment that a message may have been due at to its delivery.
    pub latest: i64,
}

/// Compares when copies were stored for delivery with when they were due: `delay_ms` (of a value) after the send, which
/// the broker took in at some moment between its start and its end. `None` when nothing of the sends was delivered.
pub fn punctuality(
    sends: &[Send],
    deliveries: &[Delivery],
    delay_ms: impl Fn(&str) -> i64,
) -> Option<Punctuality> {
    let sends: HashMap<&str, &Send> =
        sends.iter().flat_map(|send| send.values.iter().map(move |value| (value.as_str(), send))).collect();
    let mut found: Option<Punctuality> = None;
    for delivery in deliveries {
        let Some(send) = sends.get(delivery.value.as_str()) else { continue };
        let after = |moment: i64| delivery.stored_ms - moment / 1_000_000 - delay_ms(&delivery.value);
        let before = found.unwrap_or(Punctuality { soonest: i64::MAX, latest: i64::MIN });
        found = Some(Punctuality {
            soonest: before.soonest.min(after(send.start)),
            latest: before.latest.max(after(send.end)),
        });
    }
    found
}

/// Values that were delivered from more than one place.
pub fn stored_twice(deliveries: &[Delivery]) -> Vec<String> {
    let mut places: BTreeMap<&str, BTreeSet<&Place>> = BTreeMap::new();
    for delivery in deliveries {
        places.entry(&delivery.value).or_default().insert(&delivery.place);
    }
    let twice = places.into_iter().filter(|(_, places)| places.len() > 1);
    twice
        .map(|(value, places)| {
            let places: Vec<String> = places.into_iter().map(Place::to_string).collect();
            format!("{value} at {}", places.join(" and "))
        })
        .collect()
}

/// Sends that the client called failed, as `value: error`.
pub fn failed(sends: &[Send]) -> Vec<String> {
    let failed = sends.iter().filter(|send| !send.ok);
    failed
        .map(|send| format!("{}: {}", send.values.join(","), send.error.as_deref().unwrap_or("no error")))
        .collect()
}

/// The `q`-quantile of durations (0 < q ≤ 1), by the nearest rank; 0 without any.
pub fn quantile(durations: &[i64], q: f64) -> i64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(queue: u32, offset: i64) -> Place {
        Place { broker: "a".to_owned(), queue, offset }
    }

    /// An acknowledged send of `values` to offset `offset` of queue 0, from `start` to `end` milliseconds.
    fn ack(values: &str, offset: i64, start: i64, end: i64) -> Send {
        Send {
            mode: "sync".to_owned(),
            values: values.split(' ').map(str::to_owned).collect(),
            ok: true,
            place: Some(place(0, offset)),
            start: start * 1_000_000,
            end: end * 1_000_000,
            ..Send::default()
        }
    }

    fn unknown(value: &str, start: i64, end: i64) -> Send {
        let error = Some("timeout".to_owned());
        Send { ok: false, place: None, error, ..ack(value, 0, start, end) }
    }

    fn delivery(value: &str, offset: i64, at: i64) -> Delivery {
        Delivery {
            value: value.to_owned(),
            place: place(0, offset),
            at: at * 1_000_000,
            ..Delivery::default()
        }
    }

    #[test]
    fn lines_of_the_java_programs_are_read() {
        let line = r#"{"event":"send","mode":"batch","values":["v1","v2"],"ok":true,"status":"SEND_OK","broker":"a",
            "queue":3,"offset":7,"msg_id":"x","offset_msg_id":"y","start":1,"end":2}"#;
        let send: Send = serde_json::from_str(line).unwrap();
        assert_eq!(send.place, Some(place(3, 7)));
        assert_eq!(send.stored().collect::<Vec<_>>(), [("v1", place(3, 7)), ("v2", place(3, 8))]);
        let line =
            r#"{"event":"send","mode":"sync","values":["v"],"ok":false,"error":"no","start":1,"end":2}"#;
        let send: Send = serde_json::from_str(line).unwrap();
        assert_eq!((send.place, send.error.as_deref()), (None, Some("no")));
    }

    #[test]
    fn a_lost_message_is_found() {
        let sends = [ack("v0", 0, 0, 1), ack("v1 v2", 1, 1, 2), unknown("v3", 2, 3)];
        let all = ["v0", "v1", "v2"].into_iter().zip(0..).map(|(v, o)| delivery(v, o, 9)).collect::<Vec<_>>();
        assert_eq!(lost(&sends, &all), Vec::<String>::new());
        assert_eq!(lost(&sends, &all[..2]), ["v2 of a/0@2"]);
        assert_eq!(lost(&sends, &all[1..]), ["v0 of a/0@0"]);
    }

    #[test]
    fn lost_oneway_sends_are_counted_apart() {
        let oneway = Send { place: None, ..ack("w", 0, 0, 1) };
        assert_eq!(lost(std::slice::from_ref(&oneway), &[]), Vec::<String>::new());
        assert_eq!(lost_oneway(std::slice::from_ref(&oneway), &[]), 1);
        assert_eq!(lost_oneway(&[oneway], &[delivery("w", 4, 1)]), 0);
    }

    #[test]
    fn a_value_that_nobody_sent_is_found() {
        let sends = [unknown("v0", 0, 1)];
        assert_eq!(unexpected(&sends, &[delivery("v0", 0, 2)]), Vec::<String>::new());
        assert_eq!(unexpected(&sends, &[delivery("v9", 0, 2)]), ["v9 of a/0@0"]);
    }

    #[test]
    fn two_values_at_one_place_are_found() {
        let sends = [ack("v0", 0, 0, 1), ack("v1", 1, 1, 2)];
        assert_eq!(contradictions(&sends, &[delivery("v0", 0, 2)]), Vec::<String>::new());
        // delivered something else than was acknowledged there
        assert_eq!(contradictions(&sends, &[delivery("v0", 1, 2)]), ["a/0@1 holds v1 and v0"]);
        // acknowledged twice
        assert_eq!(contradictions(&[ack("v0", 0, 0, 1), ack("v1", 0, 1, 2)], &[]).len(), 1);
        // delivered twice with different contents
        assert_eq!(contradictions(&[], &[delivery("v0", 0, 2), delivery("v1", 0, 2)]).len(), 1);
    }

    #[test]
    fn a_skip_is_found() {
        let complete = [delivery("c", 5, 1), delivery("a", 3, 2), delivery("b", 4, 3), delivery("b", 4, 4)];
        assert_eq!(skipped(&complete), Vec::<String>::new());
        let mut other_queue = delivery("z", 9, 1);
        other_queue.place.queue = 1;
        let holes = [delivery("a", 3, 1), other_queue, delivery("d", 6, 2), delivery("e", 8, 3)];
        assert_eq!(skipped(&holes), ["a/0 4..6", "a/0 7..8"]);
    }

    #[test]
    fn duplicates_are_counted() {
        let once = [delivery("a", 0, 1), delivery("b", 1, 1)];
        assert_eq!(duplicates(&once), Duplicates::default());
        let again = [delivery("a", 0, 1), delivery("a", 0, 2), delivery("a", 1, 3), delivery("a", 1, 3)];
        assert_eq!(duplicates(&again), Duplicates { stored: 1, delivered: 2 });
    }

    #[test]
    fn a_gap_is_measured_between_successes_and_at_both_ends() {
        let ms = |gap: Option<(i64, i64)>| gap.map(|(length, at)| (length / 1_000_000, at / 1_000_000));
        assert_eq!(ms(longest_gap(&[])), None);
        let steady = [ack("a", 0, 0, 10), ack("b", 1, 20, 30), ack("c", 2, 40, 50)];
        assert_eq!(ms(longest_gap(&steady)), Some((20, 30)));
        let stalled = [ack("a", 0, 0, 10), ack("b", 1, 20, 1900), ack("c", 2, 1910, 1920)];
        assert_eq!(ms(longest_gap(&stalled)), Some((1890, 10)));
        let never = [unknown("a", 0, 3000)];
        assert_eq!(ms(longest_gap(&never)), Some((3000, 0)));
        let failing_end = [ack("a", 0, 0, 10), unknown("b", 20, 2500)];
        assert_eq!(ms(longest_gap(&failing_end)), Some((2490, 10)));
        // a failure in between does not end a gap
        let failing = [ack("a", 0, 0, 10), unknown("b", 20, 500), ack("c", 1, 510, 1600)];
        assert_eq!(ms(longest_gap(&failing)), Some((1590, 10)));
    }

    #[test]
    fn a_late_delivery_is_measured() {
        let sends = [ack("a", 0, 0, 10), ack("b", 1, 20, 30), ack("c", 2, 5000, 5010)];
        let prompt = [delivery("a", 0, 12), delivery("b", 1, 40), delivery("c", 2, 5015)];
        assert_eq!(longest_wait(&sends, &prompt) / 1_000_000, 10);
        // idle time without a message is no wait; a repeated delivery is not a late one
        let late =
            [delivery("a", 0, 12), delivery("b", 1, 730), delivery("c", 2, 5015), delivery("b", 1, 9000)];
        assert_eq!(longest_wait(&sends, &late) / 1_000_000, 700);
    }

    #[test]
    fn early_and_late_deliveries_are_measured() {
        let sends = [ack("a", 0, 100, 110), ack("b", 1, 200, 260)];
        let stored = |value: &str, stored_ms: i64| Delivery { stored_ms, ..delivery(value, 0, stored_ms) };
        let delay = |_: &str| 1000;
        assert_eq!(punctuality(&sends, &[], delay), None);
        assert_eq!(punctuality(&sends, &[stored("x", 5)], delay), None);
        let good = [stored("a", 1105), stored("b", 1230)];
        assert_eq!(punctuality(&sends, &good, delay), Some(Punctuality { soonest: 5, latest: -5 }));
        let bad = [stored("a", 1099), stored("b", 1560)];
        assert_eq!(punctuality(&sends, &bad, delay), Some(Punctuality { soonest: -1, latest: 300 }));
    }

    #[test]
    fn what_was_stored_twice_is_named() {
        let again = [delivery("a", 0, 1), delivery("a", 0, 2), delivery("b", 1, 1), delivery("b", 4, 2)];
        assert_eq!(stored_twice(&again), ["b at a/0@1 and a/0@4"]);
    }

    #[test]
    fn failures_are_listed_and_quantiles_are_ranks() {
        assert_eq!(failed(&[ack("a", 0, 0, 1), unknown("b", 1, 2)]), ["b: timeout"]);
        let durations: Vec<i64> = (1..=20).rev().collect();
        assert_eq!(quantile(&durations, 0.5), 10);
        assert_eq!(quantile(&durations, 0.95), 19);
        assert_eq!(quantile(&durations, 1.0), 20);
        assert_eq!(quantile(&[], 0.5), 0);
    }

    #[test]
    fn a_hop_forward_is_out_of_order_and_going_back_is_not() {
        let delivered = |offsets: &[i64]| -> Vec<Delivery> {
            offsets.iter().zip(0..).map(|(offset, at)| delivery("v", *offset, at)).collect()
        };
        for in_order in [&[3, 4, 5][..], &[3, 4, 3, 4, 5], &[5, 1, 2]] {
            assert_eq!(out_of_order(&delivered(in_order)), Vec::<String>::new(), "{in_order:?}");
        }
        for hop in [&[3, 5][..], &[3, 4, 5, 3, 5, 6]] {
            assert_eq!(out_of_order(&delivered(hop)).len(), 1, "{hop:?}");
        }
    }
}

//! What a test finds wrong: all of it, so that one run tells everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::{Result, ensure};

use crate::history::{self, Delivery, Send, sent, values};

/// A list of what is wrong.
#[derive(Debug, Default)]
pub struct Complaints {
    found: Vec<String>,
    subject: String,
}

impl Complaints {
    /// Whom the complaints that follow are about, as the version of a client.
    pub fn about(&mut self, subject: &str) {
        subject.clone_into(&mut self.subject);
    }

    pub fn subject(&self) -> &str {
        &self.subject
    }

    pub fn check(&mut self, good: bool, text: impl FnOnce() -> String) {
        if !good {
            self.found.push(format!("{}: {}", self.subject, text()));
        }
    }

    /// Complains of an error.
    pub fn result<T>(&mut self, result: Result<T>) {
        if let Err(error) = result {
            self.found.push(format!("{}: {error:#}", self.subject));
        }
    }

    /// Complains of a list that should be empty, with five of its entries.
    pub fn none<T: Debug>(&mut self, what: &str, found: &[T]) {
        self.check(found.is_empty(), || {
            format!("{} {what}: {:?}", found.len(), &found[..found.len().min(5)])
        });
    }

    /// Complains of what is missing and of what is too much.
    pub fn same<T: Debug + Ord>(&mut self, what: &str, found: &BTreeSet<T>, wanted: &BTreeSet<T>) {
        self.none(&format!("{what} missing"), &wanted.difference(found).collect::<Vec<_>>());
        self.none(&format!("{what} too many"), &found.difference(wanted).collect::<Vec<_>>());
    }

    /// An error with all complaints, if there are any.
    pub fn end(self) -> Result<()> {
        ensure!(self.found.is_empty(), "{}", self.found.join("\n"));
        Ok(())
    }
}

/// Every send succeeded, everything came once, and under the id that the send got.
pub fn exactly_once(name: &str, sends: &[Send], deliveries: &[Delivery], complaints: &mut Complaints) {
    complaints.none(&format!("failed sends of {name}"), &history::failed(sends));
    complaints.same(name, &values(deliveries), &sent(sends));
    complaints.none(&format!("{name} delivered from two places"), &history::stored_twice(deliveries));
    let again = deliveries.len() - values(deliveries).len();
    complaints.check(again == 0, || format!("{again} {name} delivered again"));
    same_ids(name, sends, deliveries, complaints);
}

/// A consumer sees the id that the producer was told.
pub fn same_ids(name: &str, sends: &[Send], deliveries: &[Delivery], complaints: &mut Complaints) {
    let ids: BTreeMap<&str, &str> = sends
        .iter()
        .filter(|send| send.values.len() == 1)
        .filter_map(|send| Some((send.values[0].as_str(), send.msg_id.as_deref()?)))
        .collect();
    let other = |d: &&Delivery| ids.get(d.value.as_str()).is_some_and(|id| *id != d.msg_id);
    complaints.none(&format!("{name} with another id"), &deliveries.iter().filter(other).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(sends: &[Send], deliveries: &[Delivery]) -> usize {
        let mut complaints = Complaints::default();
        exactly_once("x", sends, deliveries, &mut complaints);
        complaints.found.len()
    }

    #[test]
    fn each_way_of_going_wrong_is_a_complaint() {
        let send = |value: &str| Send {
            values: vec![value.to_owned()],
            ok: true,
            msg_id: Some(format!("id of {value}")),
            ..Send::default()
        };
        let delivery = |value: &str, offset: i64| Delivery {
            value: value.to_owned(),
            msg_id: format!("id of {value}"),
            place: history::Place { offset, ..history::Place::default() },
            ..Delivery::default()
        };
        let (sends, good) = ([send("a"), send("b")], [delivery("a", 0), delivery("b", 1)]);
        assert_eq!(complaints(&sends, &good), 0);
        assert_eq!(complaints(&[sends[0].clone(), Send { ok: false, ..send("b") }], &good), 2);
        assert_eq!(complaints(&sends, &good[..1]), 1);
        assert_eq!(complaints(&sends[..1], &good), 1);
        assert_eq!(complaints(&sends, &[good.to_vec(), vec![delivery("b", 1)]].concat()), 1);
        // from another place, and so also again
        assert_eq!(complaints(&sends, &[good.to_vec(), vec![delivery("b", 2)]].concat()), 2);
        let renamed = Delivery { msg_id: "other".to_owned(), ..good[1].clone() };
        assert_eq!(complaints(&sends, &[good[0].clone(), renamed]), 1);
        let mut list = Complaints::default();
        list.about("somebody");
        list.none::<u8>("things", &[]);
        list.result(Ok(()));
        list.none("things", &[1, 2]);
        assert_eq!(list.end().unwrap_err().to_string(), "somebody: 2 things: [1, 2]");
    }
}

//! Which member of a group consumes which queue. Every member computes it for itself from the same
//! sorted lists, so the rule must be Java's to the last queue
//! (client/consumer/rebalance/AllocateMessageQueueAveragely.java and …ByCircle.java).

use std::cmp::Ordering;

/// How the queues of a topic are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignment {
    /// Neighbouring queues to one consumer; the first ones get one more. Java's `AVG`.
    #[default]
    Averagely,
    /// Dealt out one by one. Java's `AVG_BY_CIRCLE`.
    AveragelyByCircle,
}

impl Assignment {
    /// Java's name of the strategy.
    pub fn name(self) -> &'static str {
        match self {
            Assignment::Averagely => "AVG",
            Assignment::AveragelyByCircle => "AVG_BY_CIRCLE",
        }
    }

    /// The share of `me`. Both lists are sorted ([`java_order`]); nothing when `me` is not listed.
    pub(crate) fn share<T: Clone>(self, me: &str, queues: &[T], clients: &[String]) -> Vec<T> {
        let Some(index) = clients.iter().position(|client| client == me) else { return Vec::new() };
        let (queue_count, client_count) = (queues.len(), clients.len());
        match self {
            Assignment::Averagely => {
                let extra = queue_count % client_count;
                let size = queue_count / client_count + usize::from(index < extra);
                let start = index * (queue_count / client_count) + index.min(extra);
                queues[start..start + size].to_vec()
            }
            Assignment::AveragelyByCircle => {
                queues.iter().skip(index).step_by(client_count).cloned().collect()
            }
        }
    }
}

/// Java's order of strings: by UTF-16 code units, which differs from Rust's where a character beyond
/// the basic plane meets one of U+E000..=U+FFFF.
pub(crate) fn java_order(left: &str, right: &str) -> Ordering {
    if left.is_ascii() && right.is_ascii() {
        return left.cmp(right);
    }
    left.encode_utf16().cmp(right.encode_utf16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Java's arithmetic, word for word.
    fn java_averagely(index: i64, queues: i64, clients: i64) -> Vec<i64> {
        let rem = queues % clients;
        let average = if queues <= clients {
            1
        } else if rem > 0 && index < rem {
            queues / clients + 1
        } else {
            queues / clients
        };
        let start = if rem > 0 && index < rem { index * average } else { index * average + rem };
        let range = average.min(queues - start);
        (0..range).map(|i| start + i).collect()
    }

    fn clients(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("10.0.0.1@{i:04}")).collect()
    }

    /// Lines "AVG queues clients index: first,count" or "CIRCLE …: q q q" written by Java 5.3.3.
    #[test]
    fn same_as_java_5_3_3() {
        let golden = include_str!("testdata/assignment_java_5_3_3.txt");
        let mut lines = 0;
        for line in golden.lines().filter(|line| !line.starts_with('#')) {
            let (head, expect) = line.split_once(':').expect("a colon");
            let words: Vec<_> = head.split(' ').collect();
            let number = |i: usize| words[i].parse::<usize>().expect("a number");
            let strategy = match words[0] {
                "AVG" => Assignment::Averagely,
                "AVG_BY_CIRCLE" => Assignment::AveragelyByCircle,
                other => panic!("strategy {other}"),
            };
            let (queue_count, client_count, index) = (number(1), number(2), number(3));
            let queues: Vec<usize> = (0..queue_count).collect();
            let clients = clients(client_count);
            let share = strategy.share(&clients[index], &queues, &clients);
            let expect: Vec<usize> =
                expect.split_whitespace().map(|word| word.parse().expect("a number")).collect();
            assert_eq!(share, expect, "{head}");
            lines += 1;
        }
        assert!(lines > 500, "{lines} lines");
    }

    #[test]
    fn who_is_not_listed_gets_nothing() {
        for strategy in [Assignment::Averagely, Assignment::AveragelyByCircle] {
            assert!(strategy.share("x", &[1, 2, 3], &clients(2)).is_empty());
            assert!(strategy.share("x", &[1, 2, 3], &[]).is_empty());
            assert!(strategy.share("10.0.0.1@0000", &Vec::<u8>::new(), &clients(2)).is_empty());
        }
    }

    #[test]
    fn strings_sort_as_in_java() {
        // U+1F600 is D83D DE00 in UTF-16, below U+FFFD there and above it by code point.
        assert_eq!(java_order("\u{1F600}", "\u{FFFD}"), Ordering::Less);
        assert_eq!("\u{1F600}".cmp("\u{FFFD}"), Ordering::Greater);
        assert_eq!(java_order("a", "ab"), Ordering::Less);
        assert_eq!(java_order("B", "a"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn averagely_is_javas_arithmetic(queues in 1usize..200, count in 1usize..60) {
            let list: Vec<i64> = (0..queues as i64).collect();
            let clients = clients(count);
            for (index, me) in clients.iter().enumerate() {
                let share = Assignment::Averagely.share(me, &list, &clients);
                prop_assert_eq!(share, java_averagely(index as i64, queues as i64, count as i64));
            }
        }

        #[test]
        fn every_queue_goes_to_one_client(queues in 0usize..200, count in 1usize..60, circle in any::<bool>()) {
            let strategy = if circle { Assignment::AveragelyByCircle } else { Assignment::Averagely };
            let list: Vec<usize> = (0..queues).collect();
            let clients = clients(count);
            let mut all: Vec<usize> = Vec::new();
            for me in &clients {
                let share = strategy.share(me, &list, &clients);
                prop_assert!(share.len() == queues / count || share.len() == queues / count + 1);
                all.extend(share);
            }
            all.sort_unstable();
            prop_assert_eq!(all, list);
        }
    }
}

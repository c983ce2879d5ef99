//! The faults of a history in time, and what they excuse: whatever took too long is judged by the faults that were at work
//! in it, or shortly before. Each adds its bound (faults.rs), and one that leaves no majority also the time that it lasted.

use std::collections::BTreeMap;

use super::faults::fault_of;
use crate::history::{Action, LivenessBounds, Nemesis};

pub(crate) const MS: u64 = 1_000_000;
/// A fault still explains what begins so long after its end: a node that is back gets its leadership five seconds after it
/// has caught up (clients.md 4).
pub(crate) const AFTERMATH_NS: u64 = 10_000 * MS;

/// A fault from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) fault: String,
    pub(crate) leaves_majority: bool,
    pub(crate) from_ns: u64,
    /// `None`: it has not ended yet.
    pub(crate) to_ns: Option<u64>,
    /// Nodes that it was about.
    pub(crate) nodes: usize,
}

impl Span {
    /// Whether it was at work in a time, or so shortly before that it explains it.
    fn touches(&self, from_ns: u64, to_ns: u64) -> bool {
        self.from_ns <= to_ns && self.to_ns.is_none_or(|end_ns| end_ns + AFTERMATH_NS >= from_ns)
    }
}

/// What became of the wall clocks in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clocks {
    Untouched,
    /// One node's was moved: a majority knew better.
    OneMoved,
    /// Those of a majority may have been moved: time means nothing from then on.
    Moved,
}

/// All faults, by their number.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    spans: BTreeMap<u32, Span>,
}

impl Faults {
    pub(crate) fn note(&mut self, t_ns: u64, nemesis: &Nemesis) {
        match nemesis.action {
            Action::Start => {
                let span = Span {
                    fault: nemesis.fault.clone(),
                    leaves_majority: nemesis.leaves_majority,
                    from_ns: t_ns,
                    to_ns: None,
                    nodes: nemesis.targets.len(),
                };
                self.spans.insert(nemesis.id, span);
            }
            Action::Stop => {
                if let Some(span) = self.spans.get_mut(&nemesis.id) {
                    span.to_ns = Some(t_ns);
                }
            }
        }
    }

    /// With their numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Span)> {
        self.spans.iter().map(|(&id, span)| (id, span))
    }

    /// What the faults excuse in a time, in ms; `None` where there was none. `last_ns`: the end of the history.
    pub(crate) fn excused_ms(
        &self,
        bounds: &LivenessBounds,
        from_ns: u64,
        to_ns: u64,
        last_ns: u64,
    ) -> Option<u64> {
        let mut excused = None;
        for span in self.spans.values().filter(|span| span.touches(from_ns, to_ns)) {
            let own = fault_of(&span.fault).map_or(0, |fault| fault.gap_ms);
            let own = if span.leaves_majority {
                bounds.fault_gap_ms.unwrap_or(own)
            } else {
                own + (span.to_ns.unwrap_or(last_ns) - span.from_ns) / MS
            };
            *excused.get_or_insert(0) += own;
        }
        excused
    }

    /// Log time never falls (docs/decisions), so that a majority's clocks that were moved once count for ever.
    pub(crate) fn clocks(&self, from_ns: u64, to_ns: u64) -> Clocks {
        let moving = self.spans.values().filter(|span| span.fault.starts_with("clock-"));
        let mut clocks = Clocks::Untouched;
        for span in moving.filter(|span| span.from_ns <= to_ns) {
            if span.nodes > 1 {
                return Clocks::Moved;
            }
            if span.touches(from_ns, to_ns) {
                clocks = Clocks::OneMoved;
            }
        }
        clocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nemesis(id: u32, fault: &str, action: Action, leaves_majority: bool, targets: &[u64]) -> Nemesis {
        let fault = fault.to_owned();
        Nemesis { id, fault, action, leaves_majority, targets: targets.to_vec(), ..Nemesis::default() }
    }

    #[test]
    fn faults_excuse_what_they_touch() {
        let mut faults = Faults::default();
        let (bounds, s) = (LivenessBounds::default(), 1_000 * MS);
        faults.note(10 * s, &nemesis(1, "kill-leader", Action::Start, true, &[1]));
        faults.note(15 * s, &nemesis(1, "kill-leader", Action::Stop, true, &[1]));
        let excused =
            |faults: &Faults, from: u64, to: u64| faults.excused_ms(&bounds, from * s, to * s, 99 * s);
        assert_eq!(excused(&faults, 1, 9), None);
        assert_eq!(excused(&faults, 12, 13), Some(3_000));
        assert_eq!(excused(&faults, 25, 30), Some(3_000), "its aftermath");
        assert_eq!(excused(&faults, 26, 30), None);
        faults.note(20 * s, &nemesis(2, "kill-all", Action::Start, false, &[1, 2, 3]));
        faults.note(27 * s, &nemesis(2, "kill-all", Action::Stop, false, &[1, 2, 3]));
        assert_eq!(excused(&faults, 21, 22), Some(3_000 + 30_000 + 7_000));
    }

    #[test]
    fn moved_clocks() {
        let mut faults = Faults::default();
        faults.note(1_000 * MS, &nemesis(1, "clock-jump", Action::Start, true, &[2]));
        faults.note(2_000 * MS, &nemesis(1, "clock-jump", Action::Stop, true, &[2]));
        assert_eq!(faults.clocks(0, 999 * MS), Clocks::Untouched);
        assert_eq!(faults.clocks(1_500 * MS, 1_600 * MS), Clocks::OneMoved);
        assert_eq!(faults.clocks(60_000 * MS, 61_000 * MS), Clocks::Untouched);
        faults.note(90_000 * MS, &nemesis(2, "clock-strobe", Action::Start, true, &[1, 2, 3]));
        faults.note(91_000 * MS, &nemesis(2, "clock-strobe", Action::Stop, true, &[1, 2, 3]));
        assert_eq!(faults.clocks(999_000 * MS, 999_001 * MS), Clocks::Moved);
        assert_eq!(faults.clocks(0, 60_000 * MS), Clocks::OneMoved);
    }
}

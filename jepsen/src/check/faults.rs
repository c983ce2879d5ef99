//! The faults that a nemesis may name, in one table: what must have been measured for a fault to have happened, and how
//! long clients may go without success because of it (reliability.md (d): the greatest gap of each drill).
//!
//! A fault that is not in the table makes a run invalid, since nothing could say whether it happened.

use crate::history::{Effect, EffectOf};

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub name: &'static str,
    /// Of each of these sets at least one effect must have happened.
    pub proof: &'static [&'static [EffectOf]],
    /// The longest time without a success that it may cause where it leaves a majority; where it does not, the longest
    /// time from its end until the next success.
    pub gap_ms: u64,
}

const fn fault(name: &'static str, gap_ms: u64, proof: &'static [&'static [EffectOf]]) -> Fault {
    Fault { name, proof, gap_ms }
}

use EffectOf::{
    CallsDelayed, CallsFailed, ClientJoined, ClientLeft, ClockMoved, Delayed, Dropped, Elected, Filled,
    Flipped, Frozen, Killed, Led, MembersChanged, NameserverKilled, Overwritten, Paused, PowerLost, Removed,
    Restored, Started, Stopped, Transferred, Truncated,
};

/// All faults. "Leader" and "follower" are told apart by [`Led`], since their bounds differ.
pub const FAULTS: &[Fault] = &[
    // F1, F2
    fault("kill-leader", 3_000, &[&[Led], &[Killed], &[Elected]]),
    fault("kill-follower", 300, &[&[Killed]]),
    fault("kill-one", 3_000, &[&[Killed]]),
    fault("kill-majority", 3_000, &[&[Killed], &[Started]]),
    fault("kill-all", 30_000, &[&[Killed], &[Started]]),
    // F3
    fault("pause-leader", 3_000, &[&[Led], &[Paused], &[Elected]]),
    fault("pause-follower", 300, &[&[Paused]]),
    fault("pause-one", 3_000, &[&[Paused]]),
    fault("pause-majority", 3_000, &[&[Paused]]),
    fault("pause-all", 3_000, &[&[Paused]]),
    // F4, F5: a cut through which nothing wanted to pass is none
    fault("isolate-leader", 4_000, &[&[Led], &[Dropped], &[Elected]]),
    fault("isolate-follower", 300, &[&[Dropped]]),
    fault("isolate-one", 4_000, &[&[Dropped]]),
    fault("halves", 4_000, &[&[Dropped]]),
    fault("cut-one-way", 4_000, &[&[Dropped]]),
    fault("bridge", 4_000, &[&[Dropped]]),
    fault("ring", 4_000, &[&[Dropped]]),
    fault("leader-with-clients", 4_000, &[&[Led], &[Dropped]]),
    fault("cut-all", 4_000, &[&[Dropped]]),
    // F6
    fault("loss", 4_000, &[&[Dropped]]),
    fault("delay", 4_000, &[&[Delayed]]),
    fault("flapping", 4_000, &[&[Dropped]]),
    // F7, F8
    fault("power-loss-leader", 3_000, &[&[Led], &[PowerLost], &[Killed], &[Elected]]),
    fault("power-loss-follower", 300, &[&[PowerLost], &[Killed]]),
    fault("power-loss-one", 3_000, &[&[PowerLost], &[Killed]]),
    fault("power-loss-all", 30_000, &[&[PowerLost], &[Killed], &[Started]]),
    fault("power-loss-and-pause", 10_000, &[&[PowerLost], &[Killed], &[Paused]]),
    // F9 to F12
    fault("torn-tail", 3_000, &[&[Killed], &[Truncated, Overwritten]]),
    fault("bit-flips", 3_000, &[&[Flipped]]),
    fault("overwrite", 3_000, &[&[Overwritten]]),
    fault("truncate", 3_000, &[&[Truncated]]),
    fault("delete-file", 3_000, &[&[Removed]]),
    fault("old-copy", 3_000, &[&[Restored]]),
    fault("lose-disk", 3_000, &[&[Removed]]),
    // F13 to F15
    fault("disk-full", 5_000, &[&[Filled]]),
    fault("fsync-error", 3_000, &[&[CallsFailed]]),
    fault("write-error", 3_000, &[&[CallsFailed]]),
    fault("slow-fsync", 8_000, &[&[CallsDelayed]]),
    fault("hung-disk", 8_000, &[&[Frozen]]),
    // F16
    fault("clock-jump", 1_000, &[&[ClockMoved]]),
    fault("clock-strobe", 1_000, &[&[ClockMoved]]),
    // F17 to F21
    fault("transfer", 1_000, &[&[Transferred], &[Elected]]),
    fault("membership", 1_000, &[&[MembersChanged]]),
    fault("rolling-restart", 1_000, &[&[Stopped], &[Started]]),
    fault("stop-leader", 1_000, &[&[Led], &[Stopped]]),
    fault("nameserver-kill", 300, &[&[NameserverKilled]]),
    fault("client-churn", 300, &[&[ClientLeft], &[ClientJoined]]),
];

/// The fault of that name.
pub fn fault_of(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.name == name)
}

/// Whether the effect, by its measure, really happened.
pub fn happened(effect: &Effect) -> bool {
    match effect.what {
        Killed | Stopped | Started | Paused | EffectOf::Resumed => effect.pid.is_some(),
        Dropped | Delayed | CallsFailed | CallsDelayed | Flipped | ClockMoved | Frozen => effect.count > 0,
        Filled => effect.bytes > 0 && effect.count > 0,
        Overwritten | Truncated => effect.bytes > 0,
        Elected | Transferred => effect.to.is_some() && !effect.at.is_empty(),
        Led => effect.node.is_some() && !effect.at.is_empty(),
        Removed | Restored => !effect.at.is_empty(),
        // How much was lost is judged over the whole run (coverage.rs): now and then everything happens to be synced.
        PowerLost => effect.node.is_some(),
        MembersChanged | ClientLeft | ClientJoined | NameserverKilled => true,
        EffectOf::Cut
        | EffectOf::Healed
        | EffectOf::Remounted
        | EffectOf::Freed
        | EffectOf::Thawed
        | EffectOf::NameserverStarted => true,
    }
}

impl Fault {
    /// What the effects do not prove, or `None` if the fault really happened.
    pub fn missing(&self, effects: &[Effect]) -> Option<String> {
        let proved = |any: &[EffectOf]| effects.iter().any(|e| any.contains(&e.what) && happened(e));
        let missing = self.proof.iter().find(|any| !proved(any))?;
        let seen: Vec<_> = effects.iter().map(|effect| effect.what).collect();
        Some(format!("nothing shows {missing:?}; recorded: {seen:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_each_fault_needs_a_proof() {
        for (at, fault) in FAULTS.iter().enumerate() {
            assert!(FAULTS[..at].iter().all(|other| other.name != fault.name), "{}", fault.name);
            assert!(!fault.proof.is_empty(), "{}", fault.name);
            assert!(fault.missing(&[]).is_some(), "{}", fault.name);
        }
    }

    #[test]
    fn a_fault_is_proved_by_its_measures() {
        let cut = fault_of("cut-one-way").unwrap();
        let dropped = |packets| Effect::link(EffectOf::Dropped, 1, 2).count(packets);
        assert_eq!(cut.missing(&[Effect::link(EffectOf::Cut, 1, 2), dropped(3)]), None);
        assert!(cut.missing(&[Effect::link(EffectOf::Cut, 1, 2), dropped(0)]).is_some());
        let kill = fault_of("kill-leader").unwrap();
        let led = Effect::on(EffectOf::Led, 1).at("broker-a");
        let killed = Effect::on(EffectOf::Killed, 1).pid(7);
        let elected = Effect::link(EffectOf::Elected, 1, 2).at("broker-a");
        assert_eq!(kill.missing(&[led.clone(), killed.clone(), elected]), None);
        assert!(kill.missing(&[led, killed]).unwrap().contains("Elected"));
        let torn = fault_of("torn-tail").unwrap();
        let killed = Effect::on(EffectOf::Killed, 1).pid(7);
        assert_eq!(torn.missing(&[killed, Effect::on(EffectOf::Overwritten, 1).bytes(9)]), None);
    }
}

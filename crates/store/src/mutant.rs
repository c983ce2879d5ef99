//! Rules that can be broken on purpose, to see that the checkers notice (jepsen/README.md, Mutants).
//!
//! A mutant is a hook at the place where its rule is kept: `Mutant::VoteNotFsynced.is_on()`. Without the feature `mutants`
//! that is a constant, false, and the compiler drops the hook. With the feature one mutant, or none, is chosen for the life
//! of the process: by [`choose`], or else by the environment's `RAFTMQ_MUTANT`. The binary `raftmq`
//! does not compile with the feature (cli's main.rs).

/// Whether this build can break a rule.
pub const ARE_BUILT_IN: bool = cfg!(feature = "mutants");

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $mutant:ident = $name:literal,)+) => {
        /// A rule that this process breaks, if it is chosen. What is said of each is what it does then.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $mutant,)+
        }

        impl Mutant {
            /// All of them, in the order of the rules.
            pub const ALL: &[Mutant] = &[$(Mutant::$mutant,)+];

            /// What it is called on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Mutant::$mutant => $name,)+
                }
            }

            /// What it does, in a line.
            pub const fn what(self) -> &'static str {
                match self {
                    $(Mutant::$mutant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

mutants! {
    /// A leader that restarts goes on in its term (log.md 1).
    LeaderRestored = "leader-restored",
    /// A vote overtakes the appends that were queued before it (log.md 2).
    VoteBesideFlushQueue = "vote-beside-flush-queue",
    /// A vote is answered before it is synced (log.md 2).
    VoteNotFsynced = "vote-not-fsynced",
    /// An append is answered before it is synced (design.md invariant 1).
    AckBeforeFsync = "ack-before-fsync",
    /// A leader takes what it has sent for stored, and so decides alone (design.md invariant 1).
    AckOnLeaderAlone = "ack-on-leader-alone",
    /// A follower applies, and gives out, what it has and nobody has said is committed (design.md invariant 2).
    UncommittedReadAtFollower = "uncommitted-read-at-follower",
    /// A checkpoint is written before the log is synced up to it (log.md 3).
    CheckpointBeyondFsync = "checkpoint-beyond-fsync",
    /// The commit index is written before the log is synced up to it (log.md 3).
    CommitBeyondFsync = "commit-beyond-fsync",
    /// What is proposed for one term may be appended in another (log.md 4).
    NoWithLeader = "no-with-leader",
    /// Nobody judges whether an entry's offsets follow those before (log.md 4).
    NoVoidCheck = "no-void-check",
    /// The proposer counts on after a proposal that was rejected (log.md 4).
    CountOnAfterRejection = "count-on-after-rejection",
    /// A frame need not name the frame before it (log.md 5).
    FramesNotChained = "frames-not-chained",
    /// Damage below the watermark is cut off as if it were a torn tail (log.md 5).
    TruncateOnCrcError = "truncate-on-crc-error",
    /// A truncation leaves the watermark where it is (log.md 5).
    WatermarkNotLowered = "watermark-not-lowered",
    /// Tables that are saved lack one consumer offset (design.md invariant 4).
    SnapshotDropsAnEntry = "snapshot-drops-an-entry",
    /// Consumer offsets are kept only by the node that proposed them (design.md invariant 4).
    OffsetsNotReplicated = "offsets-not-replicated",
    /// Commits count although a reset of the offset stands of which no consumer was told (broker's state/resets.rs).
    CommitOverrulesReset = "commit-overrules-reset",
    /// Attempts with a message that waited stay when it is done (broker's state/attempts.rs).
    AttemptsOutliveMessage = "attempts-outlive-message",
    /// An orderly consumer gets the next batch while another one has the last (broker's state/pop.rs).
    TwoBatchesInOrder = "two-batches-in-order",
    /// Who takes a batch over gets what its consumer acknowledged a moment ago (broker's state/pop.rs).
    AcknowledgedAgain = "acknowledged-again",
    /// A follower takes appends without asking whether its disk has room for them (log.md 10).
    AppendWithoutRoom = "append-without-room",
    /// Who takes itself for the leader answers at once (log.md 11).
    NoReadBarrier = "no-read-barrier",
    /// Log time is what the leader's clock says (log.md 15).
    LogTimeFollowsClock = "log-time-follows-clock",
    /// An fsync that failed counts as done (log.md 16).
    FsyncErrorIgnored = "fsync-error-ignored",
    /// A node that hears of nobody stands at once, in a new term (docs/rules.md, timing).
    NoPreVote = "no-pre-vote",
}

impl Mutant {
    /// The mutant of this name.
    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }

    /// Whether this process breaks this rule: never, in a build without the feature `mutants`.
    #[cfg(not(feature = "mutants"))]
    #[inline]
    pub const fn is_on(self) -> bool {
        let _ = self;
        false
    }

    /// Whether this process breaks this rule.
    #[cfg(feature = "mutants")]
    pub fn is_on(self) -> bool {
        chosen::now() == Some(self)
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{choose, is_own, set_own};

#[cfg(feature = "mutants")]
mod chosen {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Mutant;

    static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();

    thread_local! {
        static IS_OWN: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn now() -> Option<Mutant> {
        *CHOSEN.get_or_init(of_environment)
    }

    #[allow(clippy::panic, reason = "a mutant that is not there would let every check pass")]
    fn of_environment() -> Option<Mutant> {
        let name = std::env::var("RAFTMQ_MUTANT").ok()?;
        let mutant =
            Mutant::named(&name).unwrap_or_else(|| panic!("RAFTMQ_MUTANT: there is no mutant {name}"));
        tracing::error!(mutant = name, "this process breaks a rule on purpose");
        Some(mutant)
    }

    /// Chooses the mutant of this process, for good.
    ///
    /// # Panics
    /// When one is chosen already.
    pub fn choose(mutant: Option<Mutant>) {
        assert!(CHOSEN.set(mutant).is_ok(), "a mutant is chosen already: {:?}", now());
    }

    /// Whether the entry that this thread is about to apply was proposed by this node; for
    /// [`Mutant::OffsetsNotReplicated`].
    pub fn set_own(is_own: bool) {
        IS_OWN.set(is_own);
    }

    /// See [`set_own`].
    pub fn is_own() -> bool {
        IS_OWN.get()
    }
}

/// See the module: what is built without the feature knows of no choice.
#[cfg(not(feature = "mutants"))]
#[inline]
pub const fn set_own(_is_own: bool) {}

/// See the module.
#[cfg(not(feature = "mutants"))]
#[inline]
pub const fn is_own() -> bool {
    true
}

#[cfg(not(feature = "mutants"))]
const _: () = {
    let mut rest = Mutant::ALL;
    while let [mutant, more @ ..] = rest {
        assert!(!mutant.is_on(), "a constant, whatever happens at run time");
        rest = more;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(mutant.name()), Some(*mutant));
            assert!(mutant.what().ends_with('.'), "{mutant:?} says what it does");
        }
        assert_eq!(Mutant::named("none"), None);
    }

    /// Cargo builds this test again to ask it what a process says that was told of a mutant from its start.
    #[cfg(not(feature = "mutants"))]
    #[test]
    fn without_the_feature_no_mutant_can_be_switched_on() {
        const NAME: &str = "RAFTMQ_MUTANT";
        if std::env::var_os(NAME).is_some() {
            assert!(Mutant::ALL.iter().all(|mutant| !mutant.is_on()));
            return;
        }
        let test = std::env::current_exe().unwrap();
        for mutant in Mutant::ALL {
            let mut again = std::process::Command::new(&test);
            again.args(["--exact", "mutant::tests::without_the_feature_no_mutant_can_be_switched_on"]);
            let output = again.env(NAME, mutant.name()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{mutant:?}: {said}");
            assert!(said.contains("1 passed"), "{mutant:?}: {said}");
        }
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn one_mutant_is_on_at_most_and_is_chosen_once() {
        let chosen = std::env::var("RAFTMQ_MUTANT").ok().and_then(|name| Mutant::named(&name));
        let on: Vec<Mutant> = Mutant::ALL.iter().copied().filter(|mutant| mutant.is_on()).collect();
        assert_eq!(on, chosen.into_iter().collect::<Vec<_>>());
        assert!(std::panic::catch_unwind(|| choose(None)).is_err(), "it is asked for already");
    }
}

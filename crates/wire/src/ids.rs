//! The look-alike integers of RocketMQ, as types that cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty) from $wire:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The value of a signed header field; `None` when it is negative (RocketMQ uses -1 for
            /// "none" or "any", which is not an id).
            pub fn from_wire(value: $wire) -> Option<Self> {
                <$inner>::try_from(value).ok().map(Self)
            }

            /// The signed form that RocketMQ puts on the wire; saturates at its maximum.
            pub fn to_wire(self) -> $wire {
                <$wire>::try_from(self.0).unwrap_or(<$wire>::MAX)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

id! {
    /// The place of a message within its queue, counted in messages from 0.
    QueueOffset(u64) from i64
}
id! {
    /// A byte position in the commit log; RocketMQ calls it the physical offset.
    LogPosition(u64) from i64
}
id! {
    /// The number of a queue within its topic, from 0.
    QueueId(u32) from i32
}

impl QueueOffset {
    /// The offset `count` messages further; saturates.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl LogPosition {
    /// The position `bytes` further; saturates.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_wire_values_are_not_ids() {
        assert_eq!(QueueId::from_wire(-1), None);
        assert_eq!(QueueOffset::from_wire(i64::MIN), None);
        assert_eq!(LogPosition::from_wire(7), Some(LogPosition(7)));
        assert_eq!(LogPosition(u64::MAX).to_wire(), i64::MAX);
        assert_eq!(QueueId(3).to_string(), "3");
        assert_eq!(QueueOffset(u64::MAX).plus(1), QueueOffset(u64::MAX));
    }
}

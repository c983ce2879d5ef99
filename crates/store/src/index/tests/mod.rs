//! The index against a model, over a log that is only memory: through every upkeep, damage, restart and crash.

mod concurrent;
mod coupled;
mod crash;
mod damage;
mod model;
mod on_log;
mod sizes;
mod world;

/// The hash of an IndexFile for `topic#key`.
fn model_hash(key: &str) -> u32 {
    super::codec::key_hash(wire::java_string_hash(key))
}

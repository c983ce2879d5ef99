//! The one integration binary. Each module lists its tests; runner.rs runs them side by side.

mod admin;
mod bad_input;
mod command_line;
mod conf_files;
mod consumers;
mod doubt;
mod drill;
mod failover;
mod go_client;
mod java_basic;
mod java_consumption;
mod java_failover;
mod java_messaging;
mod mqadmin;
mod mqadmin_commands;
mod nameserver_mix;
mod pop;
mod reads_at_followers;
mod replicas_equal;
mod virtual_address;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Those that take longest come first, of each kind, so that the others fill the time beside them.
    let tests = [
        java_failover::tests(),
        drill::tests(),
        nameserver_mix::tests(),
        java_consumption::tests(),
        reads_at_followers::tests(),
        java_basic::tests(),
        java_messaging::tests(),
        go_client::tests(),
        pop::tests(),
        mqadmin::tests(),
        mqadmin_commands::tests(),
        command_line::tests(),
        admin::tests(),
        consumers::tests(),
        bad_input::tests(),
        replicas_equal::tests(),
        failover::tests(),
        virtual_address::tests(),
        conf_files::tests(),
    ];
    tests::runner::main(tests.into_iter().flatten().collect())
}

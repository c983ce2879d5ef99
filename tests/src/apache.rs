//! Apache RocketMQ 5.3.3's nameserver and broker, to be mixed with ours.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::Process;
use crate::remoting::{self, Connection};
use crate::{java, ports, wait};

/// JVM start and recovery of an empty store on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running Apache server.
pub struct Apache {
    process: Process,
    pub address: String,
}

impl Apache {
    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

/// A nameserver, ready to be asked.
pub fn nameserver(dir: &Path) -> Result<Apache> {
    let port = ports::free()?;
    let config = dir.join("apache-namesrv.conf");
    std::fs::write(&config, format!("listenPort={port}\n"))?;
    let process = start(dir, "apache-namesrv", "org.apache.rocketmq.namesrv.NamesrvStartup", &config)?;
    let address = format!("127.0.0.1:{port}");
    wait::until("Apache's nameserver answers", PATIENCE, || remoting::brokers(&address).map(Some))?;
    Ok(Apache { process, address })
}

/// A broker named `name` of cluster `Apache`, registered with `namesrv`.
pub fn broker(dir: &Path, name: &str, namesrv: &str) -> Result<Apache> {
    let port = ports::free()?;
    let store = dir.join(format!("{name}.store"));
    let config = dir.join(format!("{name}.conf"));
    std::fs::write(
        &config,
        format!(
            "brokerClusterName=Apache\nbrokerName={name}\nbrokerId=0\nbrokerRole=ASYNC_MASTER\nlistenPort={port}\n\
             haListenPort={}\nnamesrvAddr={namesrv}\nbrokerIP1=127.0.0.1\nbrokerIP2=127.0.0.1\n\
             autoCreateTopicEnable=true\nenablePropertyFilter=true\nmappedFileSizeCommitLog=67108864\n\
             mappedFileSizeTimerLog=1048576\ntimerWheelEnable=false\nenableControllerMode=false\n\
             storePathRootDir={store}\nstorePathCommitLog={store}/commitlog\n",
            ports::free()?,
            store = store.display(),
        ),
    )?;
    let process = start(dir, name, "org.apache.rocketmq.broker.BrokerStartup", &config)?;
    let address = format!("127.0.0.1:{port}");
    wait::until_true("Apache's broker answers", PATIENCE, || {
        Ok(!Connection::open(&address, Duration::from_secs(2))?.runtime()?.is_empty())
    })?;
    Ok(Apache { process, address })
}

fn start(dir: &Path, name: &str, class: &str, config: &Path) -> Result<Process> {
    let mut command = Command::new("java");
    command.args(["-Xms400m", "-Xmx400m", "-XX:MaxDirectMemorySize=512m"]);
    for package in ["java.base/java.nio", "java.base/sun.nio.ch", "java.base/java.lang"] {
        command.arg(format!("--add-opens={package}=ALL-UNNAMED"));
    }
    command.args(["--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED"]);
    command.arg(format!("-Duser.home={}", dir.join(format!("{name}.home")).display()));
    command.args(["-cp", &java::apache_classpath()?, class, "-c"]).arg(config);
    command.env("ROCKETMQ_HOME", dir);
    Process::start(name, &mut command, &dir.join(format!("{name}.log")))
}

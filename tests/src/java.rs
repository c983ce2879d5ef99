//! Stock Java clients: jars from Maven Central, and tests/java compiled against them (with 5.x also tests/java5).
//!
//! ```text
//! target/java-clients/4.9.8/lib/*.jar          one directory per client version, resolved once
//! target/java-clients/4.9.8/HASH.jar           tests/java compiled against it, once per state of the sources
//! target/java-clients/4.9.8/HASH.jsa           its classes and the client's as a JVM has them in memory, which it maps instead
//!                                              of loading and checking them: half of a client's start
//! target/java-clients/apache-5.3.3/lib/*.jar   nameserver and broker; mqadmin-5.3.3 beside it, with Shell.java compiled
//! target/java-clients/newest                   the version that Maven Central's metadata called the newest
//! ```

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::paths;
use crate::runner::{Requirement, skip};
use crate::scenario::Scenario;

/// Used when Maven Central's list of versions cannot be read.
const NEWEST_WHEN_UNKNOWN: &str = "5.5.0";

/// mqadmin's main class.
pub(crate) const MQADMIN: &str = "org.apache.rocketmq.tools.command.MQAdminStartup";

/// The Apache servers and mqadmin that we are compared and mixed with.
pub const APACHE: &str = "5.3.3";

/// The clients that tests run with: `RAFTMQ_JAVA_VERSIONS`, or the three that clients.md rule 14 names. `newest` is
/// resolved by [`kit`].
pub fn versions() -> Vec<String> {
    let chosen = std::env::var("RAFTMQ_JAVA_VERSIONS").unwrap_or_else(|_| "4.9.8,5.3.3,newest".to_owned());
    chosen.split(',').map(|version| version.trim().to_owned()).filter(|version| !version.is_empty()).collect()
}

/// Which program of the three is not installed.
pub(crate) fn missing() -> Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let runs = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    MISSING
        .get_or_init(|| {
            let absent: Vec<&str> = ["java", "javac", "mvn"].into_iter().filter(|p| !runs(p)).collect();
            (!absent.is_empty()).then(|| format!("{} not installed", absent.join(", ")))
        })
        .clone()
}

/// A client version, ready to run scenarios.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The resolved version, as 5.5.0.
    pub version: String,
    program: Program,
}

/// What a JVM needs to run main classes.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    class_path: String,
    /// Empty where this Java makes none.
    archive: PathBuf,
}

impl Program {
    /// `java` (see [`command`]) made to run a class.
    pub(crate) fn run(&self, java: &mut Command, class: &str) {
        if self.archive.metadata().is_ok_and(|archive| archive.len() > 0) {
            java.arg(format!("-XX:SharedArchiveFile={}", self.archive.display()));
        }
        java.args(["-cp", &self.class_path, class]);
    }
}

/// Resolves and compiles a client; `version` may be `newest`. Skips the test when Maven cannot resolve it.
pub fn kit(version: &str) -> Result<Kit> {
    let version = if version == "newest" { newest()? } else { version.to_owned() };
    let lib = jars(&version, &[("rocketmq-client", &version)])?;
    let mut folders = vec!["tests/java/raftmq"];
    if !version.starts_with('4') {
        folders.push("tests/java5/raftmq");
    }
    // Nobody listens there: clients start all the same.
    let training =
        "raftmq.Scenario together + consume --topic t + send --topic t --retries 0 + --namesrv 127.0.0.1:1";
    let program = compile(&version, &lib, &folders, training)?;
    Ok(Kit { version, program })
}

/// Classpath of Apache's nameserver and broker.
pub(crate) fn apache_classpath() -> Result<String> {
    let artifacts = ["rocketmq-namesrv", "rocketmq-broker"].map(|name| (name, APACHE));
    Ok(format!("{}/*", jars(&format!("apache-{APACHE}"), &artifacts)?.display()))
}

/// mqadmin, and a shell of it (tests/java/mqadmin), apart from the servers: their logging configuration prints to standard output.
pub(crate) fn mqadmin() -> Result<Program> {
    let name = format!("mqadmin-{APACHE}");
    let lib = jars(&name, &[("rocketmq-tools", APACHE)])?;
    let training = format!("{MQADMIN} clusterList -n 127.0.0.1:1");
    compile(&name, &lib, &["tests/java/mqadmin"], &training)
}

/// `java` with few resources: a test runs several. Logs and offset files go below `home`.
pub fn command(home: &Path) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
    command.arg(format!("-Duser.home={}", home.display())).env_remove("NAMESRV_ADDR");
    command
}

/// The newest 5.x: Maven resolves the range from Maven Central's metadata, once per target directory.
fn newest() -> Result<String> {
    let home = home()?;
    let _lock = lock(&home, "newest")?;
    let known = home.join("newest");
    if let Ok(version) = fs::read_to_string(&known) {
        return Ok(version.trim().to_owned());
    }
    let found = resolve(&home.join("newest.part"), &[("rocketmq-client", "[5.3.3,6)")]).and_then(|lib| {
        let names = fs::read_dir(&lib)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let versions = names
            .filter_map(|name| Some(name.strip_prefix("rocketmq-client-")?.strip_suffix(".jar")?.to_owned()));
        let version = versions.last().context("no rocketmq-client jar")?;
        let place = home.join(&version);
        if !place.join("lib").exists() {
            fs::create_dir_all(&place)?;
            fs::rename(&lib, place.join("lib"))?;
        }
        fs::remove_dir_all(home.join("newest.part"))?;
        fs::write(&known, &version)?;
        Ok(version)
    });
    Ok(found.unwrap_or_else(|error| {
        eprintln!("newest client taken to be {NEWEST_WHEN_UNKNOWN}: {error:#}");
        NEWEST_WHEN_UNKNOWN.to_owned()
    }))
}

fn home() -> Result<PathBuf> {
    let home = paths::target().join("java-clients");
    fs::create_dir_all(&home)?;
    Ok(home)
}

/// Held while a directory is filled; test processes may run side by side.
fn lock(home: &Path, name: &str) -> Result<File> {
    let file = File::create(home.join(format!("{name}.lock")))?;
    file.lock()?;
    Ok(file)
}

/// The directory with the jars of some artifacts and all that they depend on.
fn jars(name: &str, artifacts: &[(&str, &str)]) -> Result<PathBuf> {
    let home = home()?;
    let _lock = lock(&home, name)?;
    let lib = home.join(name).join("lib");
    if !lib.exists() {
        let part = home.join(format!("{name}.part"));
        let resolved = resolve(&part, artifacts)
            .map_err(|error| skip(Requirement::Java, format!("{name} from Maven: {error:#}")))?;
        fs::create_dir_all(home.join(name))?;
        fs::rename(resolved, &lib)?;
        fs::remove_dir_all(part)?;
    }
    Ok(lib)
}

fn resolve(dir: &Path, artifacts: &[(&str, &str)]) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let mut dependencies = String::new();
    for (artifact, version) in artifacts {
        dependencies += &format!(
            "<dependency><groupId>org.apache.rocketmq</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        );
    }
    fs::write(
        dir.join("pom.xml"),
        format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
             <groupId>raftmq</groupId><artifactId>java-clients</artifactId><version>1</version>\
             <dependencies>{dependencies}</dependencies></project>"
        ),
    )?;
    let mut mvn = Command::new("mvn");
    mvn.args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]).current_dir(dir);
    let output = mvn.stdin(Stdio::null()).output().context("run mvn")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let first_error = said.lines().find(|line| line.contains("ERROR")).unwrap_or("").trim();
    ensure!(output.status.success(), "mvn {}: {first_error}", output.status);
    Ok(dir.join("lib"))
}

/// Compiles the sources of some folders against `lib`, once per state of them, and archives what a run of `training` (a class
/// and its arguments) loads.
fn compile(version: &str, lib: &Path, folders: &[&str], training: &str) -> Result<Program> {
    let mut files = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(paths::workspace().join(folder))?;
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.retain(|file| file.extension().is_some_and(|e| e == "java"));
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in &files {
        fs::read(file)?.hash(&mut hasher);
    }
    let home = home()?;
    let _lock = lock(&home, version)?;
    let home = home.join(version);
    let jar = home.join(format!("{:016x}.jar", hasher.finish()));
    let archive = jar.with_extension("jsa");
    let class_path = format!("{}:{}/*", jar.display(), lib.display());
    if !archive.exists() {
        let classes = home.join("classes.part");
        let mut javac = Command::new("javac");
        javac.args(["-nowarn", "-Xlint:-options", "--release", "8", "-encoding", "UTF-8", "-cp"]);
        javac.arg(format!("{}/*", lib.display())).arg("-d").arg(&classes).args(&files);
        let output = javac.stdin(Stdio::null()).output().context("run javac")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{folders:?} does not compile against {version}:\n{said}");
        let mut pack = Command::new("jar");
        pack.arg("cf").arg(&jar).arg("-C").arg(&classes).arg(".");
        let output = pack.stdin(Stdio::null()).output().context("run jar")?;
        ensure!(output.status.success(), "jar: {}", String::from_utf8_lossy(&output.stderr));
        fs::remove_dir_all(&classes)?;

        let part = home.join("jsa.part");
        let mut java = command(&home.join("training.home"));
        java.arg(format!("-XX:ArchiveClassesAtExit={}", part.display()));
        java.args(["-cp", &class_path]).args(training.split_whitespace());
        java.stdin(Stdio::null()).output().context("run java")?;
        if !part.exists() {
            // This Java does not know how.
            File::create(&part)?;
        }
        fs::rename(&part, &archive)?;
    }
    Ok(Program { class_path, archive })
}

impl Kit {
    /// `java` (see [`command`]) made to run `Scenario ARGUMENTS`.
    pub fn program(&self, mut java: Command, arguments: &[&str]) -> Command {
        self.program.run(&mut java, "raftmq.Scenario");
        java.args(arguments);
        java
    }

    /// Starts `Scenario ARGUMENTS`, with its files in `dir` under `name`.
    pub fn scenario(&self, dir: &Path, name: &str, namesrv: &str, arguments: &[&str]) -> Result<Scenario> {
        let arguments = [arguments, &["--namesrv", namesrv]].concat();
        let mut command = self.program(command(&dir.join(format!("{name}.home"))), &arguments);
        let title = format!("{name} ({} {})", self.version, arguments.join(" "));
        Scenario::start(&mut command, &title, dir, name)
    }

    /// Starts several scenarios in one process, which shares the cost of a JVM. Each is a command line; words have no blanks.
    /// Standard input is one for all.
    pub fn together(&self, dir: &Path, name: &str, namesrv: &str, scenarios: &[String]) -> Result<Scenario> {
        let mut arguments = vec!["together"];
        for scenario in scenarios {
            arguments.push("+");
            arguments.extend(scenario.split_whitespace());
        }
        // what follows is for all
        arguments.push("+");
        self.scenario(dir, name, namesrv, &arguments)
    }

    /// Whether it is a 5.x, with what raftmq.Newer names.
    pub fn is_five(&self) -> bool {
        !self.version.starts_with('4')
    }
}

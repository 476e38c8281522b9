use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::process::{Process, Program};
use crate::{Doing, Error, until};

/// Where this machine meets the pods; they reach istiod here.
const GATEWAY: u8 = 1;
const LAST: u8 = 254;

const LIMIT: Duration = Duration::from_secs(10);

/// A bridge for the pods of one node, with one end of a cable on this machine.
///
/// The bridge is in a network namespace of its own, as each pod is, and a namespace lives as long
/// as the process that holds it. So the kernel itself takes bridge, cables and addresses away when
/// the processes die, and these die with us in whatever way.
pub(crate) struct Network {
    subnet: [u8; 3],
    holder: Process,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    numbers: BTreeSet<u8>,
    last: u8,
}

impl Network {
    /// `block` is a number that no other cluster on this machine has at this time.
    pub(crate) async fn create(folder: &Path, block: u16) -> Result<Self, Error> {
        // From 10.77.0.0 on: apart from Services (10.0.0.0/16) and kwok's pods (10.100.0.0/16).
        let [high, low] = block.to_be_bytes();
        let subnet = [10, 77 + high, low];
        let holder = hold(folder, "node-network").await?;
        let network = Self { subnet, holder, taken: Arc::default() };
        let (outside, gateway) = (format!("mesh{block}"), network.gateway());
        // A cluster of a moment ago may have had the same number: its end goes a moment later.
        until(&format!("the cable {outside} to be laid"), LIMIT, async || {
            let add = format!(
                "link add {outside} type veth peer name uplink netns {}",
                network.holder.id()
            );
            ip(None, &add).await.map_err(|error| error.to_string())
        })
        .await?;
        let bridge = "link add pods type bridge\nlink set pods up\n\
            link set uplink master pods\nlink set uplink up";
        ip(Some(&network.holder), bridge).await?;
        let address = format!("addr add {gateway}/24 dev {outside}\nlink set {outside} up");
        ip(None, &address).await?;
        Ok(network)
    }

    /// The address of this machine on the bridge.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.address(GATEWAY)
    }

    pub(crate) fn holder(&self) -> u32 {
        self.holder.id()
    }

    fn address(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, number)
    }

    /// A namespace with an address of its own on the bridge.
    pub(crate) async fn connect(&self, folder: &Path) -> Result<PodNetwork, Error> {
        let place = self.take()?;
        let address = self.address(place.number);
        let holder = hold(folder, "pod-network").await?;
        let (name, gateway) = (format!("pod{}", place.number), self.gateway());
        let cable = format!(
            "link add {name} type veth peer name eth0 netns {}\n\
             link set {name} master pods\nlink set {name} up",
            holder.id()
        );
        ip(Some(&self.holder), &cable).await?;
        let inside = format!(
            "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n\
             route add default via {gateway}"
        );
        ip(Some(&holder), &inside).await?;
        Ok(PodNetwork { holder, address, _place: place })
    }

    fn take(&self) -> Result<Place, Error> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Round and round: an address given back a moment ago may still be in somebody's list.
        let last = taken.last;
        let order = (GATEWAY + 1..=LAST).filter(|number| *number > last);
        let order = order.chain((GATEWAY + 1..=LAST).filter(|number| *number <= last));
        let free = order.into_iter().find(|number| !taken.numbers.contains(number));
        let number = free.ok_or_else(|| Error::new("all addresses of the node are taken"))?;
        taken.numbers.insert(number);
        taken.last = number;
        Ok(Place { number, taken: Arc::clone(&self.taken) })
    }
}

struct Place {
    number: u8,
    taken: Arc<Mutex<Taken>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.numbers.remove(&self.number);
    }
}

/// The network namespace of one pod; it goes when this value goes.
pub(crate) struct PodNetwork {
    // Before the place: no two namespaces ever have one address.
    holder: Process,
    address: Ipv4Addr,
    _place: Place,
}

impl PodNetwork {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn holder(&self) -> u32 {
        self.holder.id()
    }

    /// Puts these rules in place of those before, all at one moment.
    pub(crate) async fn rules(&self, rules: &str) -> Result<(), Error> {
        // Several containers may be at the table; its lock is waited for.
        feed(Some(&self.holder), &["iptables-restore", "--wait"], rules).await
    }
}

/// A process that does nothing, in a new network namespace.
async fn hold(folder: &Path, name: &str) -> Result<Process, Error> {
    let mut holder = Program::new(name, "unshare".into(), folder)
        .args(["--net", "--", "sleep", "infinity"])
        .start()?;
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
    let own = of("self").doing("looking at our own network")?;
    let begin = Instant::now();
    while of(&holder.id().to_string()).is_ok_and(|network| network == own) {
        if begin.elapsed() > LIMIT {
            return Err(holder.blame("is not in a network of its own"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    holder.check()?;
    Ok(holder)
}

/// Runs `ip` on these lines, on this machine or where the process is.
async fn ip(within: Option<&Process>, lines: &str) -> Result<(), Error> {
    feed(within, &["ip", "-batch", "-"], lines).await
}

/// Runs a program that takes its orders from lines, on this machine or where the process is.
async fn feed(within: Option<&Process>, program: &[&str], lines: &str) -> Result<(), Error> {
    let doing = || format!("{}, at `{}`", program.join(" "), lines.trim().replace('\n', "; "));
    let mut command = Command::new(if within.is_some() { "nsenter" } else { program[0] });
    match within {
        Some(process) => {
            command.arg(format!("--net=/proc/{}/ns/net", process.id())).arg("--").args(program)
        }
        None => command.args(&program[1..]),
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .doing(doing())?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).await.doing(doing())?;
        input.write_all(b"\n").await.doing(doing())?;
    }
    let output = child.wait_with_output().await.doing(doing())?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(Error::new(format!("{}: {}", doing(), String::from_utf8_lossy(&output.stderr))))
        }
    }
}

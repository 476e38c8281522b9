//! The pure core of meshrollout: Istio's mTLS semantics, the gates, and the decisions. No clock,
//! no cluster, no environment: everything comes in as an argument, and what goes out is a value.
//!
//! # Why an outage is impossible, or where it would have to come from
//!
//! A client sends the same bytes before and after STRICT. So whoever would be refused afterwards
//! can be seen before:
//!
//! 1. **Seen.** [`effective`] says what a server accepts and [`client_tls`] what a client sends,
//!    each with the object that decided it, by Istio's own rules. [`traffic`] is what was really
//!    sent. The gates ([`gate`]) put both together and name what is in the way ([`finding`]).
//! 2. **Not knowing is a value.** A missing answer is [`Reading::Unknown`](reading::Reading), and
//!    no gate passes on it. "Nobody sent plaintext" counts only together with the proof that
//!    somebody was looking, at every pod, over the whole look-back.
//! 3. **One key.** The only way to say STRICT is [`Action::EnforceStrict`](action::Action), which
//!    spends a [`Clearance`](clearance::Clearance). Only running *every* gate cuts one; it expires
//!    with its evidence, and it names the exact policy object and version it was cut for.
//! 4. **A way back.** Before STRICT our own PERMISSIVE stands there. Rolling back writes it again,
//!    and needs neither metrics nor gates nor status: all of it is on the policy ([`policy`]).
//! 5. **Small steps.** One stage in flight, watched for harm ([`rollback`]) for as long as there is
//!    evidence; when we are blind, time does not count.
//!
//! What remains: a client that stayed silent for the whole look-back and starts afterwards, and
//! objects of others that change between our last read and our write. Both are caught by watching,
//! if a signal exists that would show them; the gate `refusalSignal` asks for that beforehand.
//!
//! # Where to read on
//!
//! [`decide`](mod@decide) first, then [`action`], then [`invariant`].
//!
//! | word | meaning |
//! | --- | --- |
//! | *snapshot* | everything that was observed, as of one time |
//! | *progress* | what is remembered between visits; losing it only restarts clocks |
//! | *decision* | what is to be done, remembered and said |
//! | *clearance* | the key to STRICT |

pub mod action;
pub mod call;
pub mod clearance;
pub mod client_tls;
pub mod condition;
pub mod decide;
pub mod effective;
pub mod egress;
pub mod explain;
pub mod exposure;
pub mod finding;
pub mod gate;
pub mod ident;
pub mod injection;
pub mod invariant;
mod members;
pub mod mode;
pub mod order;
pub mod plan;
pub mod policy;
pub mod preflight;
pub mod progress;
pub mod proxies;
pub mod reading;
pub mod restore;
pub mod rollback;
pub mod scheduled;
pub mod scrape;
pub mod snapshot;
pub mod standing;
pub mod terms;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls_check;
pub mod traffic;
mod view;
pub mod waiver;
pub mod workload;

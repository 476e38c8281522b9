use crate::{Client, Cluster, Doing, Edge, EdgeId, Error, Server};

const SHOP: &str = include_str!("../fixtures/shop.yaml");
const WITHOUT_SIDECAR: &str = include_str!("../fixtures/workload-without-sidecar.yaml");
const DISABLING_RULE: &str = include_str!("../fixtures/destination-rule-disable.yaml");

/// The shop of the demo: `frontend/web` calls `orders/orders`, which calls `catalog/catalog` and
/// `payments/payments`; `legacy/batch`, outside the mesh, calls `catalog/catalog`.
pub struct Shop {
    /// The edges that are counting.
    pub traffic: ShopTraffic,
}

/// The edges of the shop.
///
/// Each is sent as its client's pods can at the moment: in mutual TLS from pods with a sidecar.
#[derive(Clone, Copy, Debug)]
pub struct ShopTraffic {
    /// `frontend/web` → `orders/orders`
    pub web_to_orders: EdgeId,
    /// `orders/orders` → `catalog/catalog`
    pub orders_to_catalog: EdgeId,
    /// `orders/orders` → `payments/payments`
    pub orders_to_payments: EdgeId,
    /// `legacy/batch` → `catalog/catalog`, in plaintext until batch has a sidecar
    pub batch_to_catalog: EdgeId,
}

impl Shop {
    /// Applies the shop's objects, waits for its pods, and starts its everyday traffic.
    pub async fn open(cluster: &Cluster) -> Result<Self, Error> {
        cluster.apply_yaml(SHOP).await.doing("opening the shop")?;
        for (namespace, name) in [
            ("frontend", "web"),
            ("orders", "orders"),
            ("catalog", "catalog"),
            ("payments", "payments"),
            ("legacy", "batch"),
        ] {
            cluster.rolled_out(namespace, name).await?;
        }
        let exporter = cluster.exporter();
        let start = |from: (&str, &str), to: (&str, &str)| {
            let (from, to) = (Client::workload(from.0, from.1), Server::workload(to.0, to.1));
            exporter.edge(Edge::new(from, to).rps(20.0))
        };
        let traffic = ShopTraffic {
            web_to_orders: start(("frontend", "web"), ("orders", "orders")),
            orders_to_catalog: start(("orders", "orders"), ("catalog", "catalog")),
            orders_to_payments: start(("orders", "orders"), ("payments", "payments")),
            batch_to_catalog: start(("legacy", "batch"), ("catalog", "catalog")),
        };
        Ok(Self { traffic })
    }

    /// Adds `orders/invoices`, whose pods refuse a sidecar.
    pub async fn add_workload_without_sidecar(cluster: &Cluster) -> Result<(), Error> {
        cluster.apply_yaml(WITHOUT_SIDECAR).await?;
        cluster.rolled_out("orders", "invoices").await
    }

    /// Adds the DestinationRule `frontend/orders-plain`, which turns mutual TLS off toward orders.
    pub async fn add_disabling_rule(cluster: &Cluster) -> Result<(), Error> {
        cluster.apply_yaml(DISABLING_RULE).await
    }
}

// Asks istiod, as proxies do, what it would send them, and prints it.
//
//	xds ADDRESS < proxies.json
//
// ADDRESS is istiod's plaintext xDS port. Standard input is a list of proxies:
// [{"pod": "…", "namespace": "…", "ip": "…", "labels": {…}}, …]. Standard output has a line of
// JSON for each: {"pod", "namespace", "inbound": Listener, "clusters": [Cluster, …],
// "endpoints": [ClusterLoadAssignment, …]} in protobuf's own JSON. Of listeners only
// virtualInbound is told, of clusters only outbound ones and their endpoints.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	v3 "istio.io/istio/pilot/pkg/xds/v3"

	// What is inside of the Anys, for protojson.
	_ "istio.io/istio/pkg/config/xds"
)

type proxy struct {
	Pod       string            `json:"pod"`
	Namespace string            `json:"namespace"`
	IP        string            `json:"ip"`
	Labels    map[string]string `json:"labels"`
}

type answer struct {
	Pod       string            `json:"pod"`
	Namespace string            `json:"namespace"`
	Inbound   json.RawMessage   `json:"inbound"`
	Clusters  []json.RawMessage `json:"clusters"`
	Endpoints []json.RawMessage `json:"endpoints"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: xds ADDRESS < proxies.json")
		os.Exit(64)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "xds:", err)
		os.Exit(1)
	}
}

func run(address string) error {
	var proxies []proxy
	if err := json.NewDecoder(os.Stdin).Decode(&proxies); err != nil {
		return fmt.Errorf("reading the proxies: %w", err)
	}
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := discovery.NewAggregatedDiscoveryServiceClient(connection)
	answers := make([]answer, len(proxies))
	errors := make([]error, len(proxies))
	var all sync.WaitGroup
	for index, one := range proxies {
		all.Add(1)
		go func() {
			defer all.Done()
			answers[index], errors[index] = ask(client, one)
		}()
	}
	all.Wait()
	output := json.NewEncoder(os.Stdout)
	for index, one := range proxies {
		if errors[index] != nil {
			return fmt.Errorf("asking for %s/%s: %w", one.Namespace, one.Pod, errors[index])
		}
		if err := output.Encode(answers[index]); err != nil {
			return err
		}
	}
	return nil
}

func ask(client discovery.AggregatedDiscoveryServiceClient, one proxy) (answer, error) {
	limit, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	told := answer{Pod: one.Pod, Namespace: one.Namespace}
	stream, err := client.StreamAggregatedResources(limit)
	if err != nil {
		return told, err
	}
	node, err := one.node()
	if err != nil {
		return told, err
	}
	get := func(kind string, names []string) ([]*anypb.Any, error) {
		request := &discovery.DiscoveryRequest{Node: node, TypeUrl: kind, ResourceNames: names}
		if err := stream.Send(request); err != nil {
			return nil, err
		}
		for {
			response, err := stream.Recv()
			if err != nil {
				return nil, err
			}
			// Pushes of another kind may come in between.
			if response.TypeUrl == kind {
				return response.Resources, nil
			}
		}
	}
	clusters, err := get(v3.ClusterType, nil)
	if err != nil {
		return told, err
	}
	var served []string
	for _, each := range clusters {
		var one cluster.Cluster
		if err := each.UnmarshalTo(&one); err != nil {
			return told, err
		}
		if !strings.HasPrefix(one.Name, "outbound|") {
			continue
		}
		if one.GetType() == cluster.Cluster_EDS {
			served = append(served, one.Name)
		}
		// Of no interest, and of many kinds.
		one.Filters, one.TypedExtensionProtocolOptions = nil, nil
		text, err := protojson.Marshal(&one)
		if err != nil {
			return told, err
		}
		told.Clusters = append(told.Clusters, text)
	}
	var endpoints []*anypb.Any
	// Asked for none, istiod does not answer.
	if len(served) > 0 {
		if endpoints, err = get(v3.EndpointType, served); err != nil {
			return told, err
		}
	}
	for _, each := range endpoints {
		message, err := each.UnmarshalNew()
		if err != nil {
			return told, err
		}
		text, err := protojson.Marshal(message)
		if err != nil {
			return told, err
		}
		told.Endpoints = append(told.Endpoints, text)
	}
	listeners, err := get(v3.ListenerType, nil)
	if err != nil {
		return told, err
	}
	for _, each := range listeners {
		var one listener.Listener
		if err := each.UnmarshalTo(&one); err != nil {
			return told, err
		}
		if one.Name != "virtualInbound" {
			continue
		}
		// As above.
		for _, chain := range one.FilterChains {
			chain.Filters = nil
		}
		one.DefaultFilterChain, one.ListenerFilters, one.AccessLog = nil, nil, nil
		if told.Inbound, err = protojson.Marshal(&one); err != nil {
			return told, err
		}
	}
	if told.Inbound == nil {
		return told, fmt.Errorf("there is no virtualInbound among %d listeners", len(listeners))
	}
	return told, nil
}

// The node as a sidecar's bootstrap would name it.
func (one proxy) node() (*core.Node, error) {
	labels := map[string]any{}
	for name, value := range one.Labels {
		labels[name] = value
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"NAMESPACE":         one.Namespace,
		"CLUSTER_ID":        "Kubernetes",
		"ISTIO_VERSION":     "1.31.0",
		"INTERCEPTION_MODE": "REDIRECT",
		"LABELS":            labels,
	})
	if err != nil {
		return nil, err
	}
	domain := one.Namespace + ".svc.cluster.local"
	id := fmt.Sprintf("sidecar~%s~%s.%s~%s", one.IP, one.Pod, one.Namespace, domain)
	return &core.Node{Id: id, Metadata: metadata}, nil
}

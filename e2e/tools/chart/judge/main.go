// Judges MeshRollouts as the tools of their users do: kstatus (kubectl, Flux, Helm), Argo CD's health
// script, Flux's health check expressions.
//
// usage: judge GITOPS < OBJECTS        GITOPS: the folder charts/gitops; OBJECTS: JSON, one a line
//
// Prints for each object a line: {"kstatus": …, "argocd": …, "flux": …, "actions": […]}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/cel-go/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

type verdict struct {
	Kstatus string `json:"kstatus"`
	ArgoCD  string `json:"argocd"`
	Flux    string `json:"flux"`
	// Each action of Argo CD's, as it would change the object.
	Actions map[string]any `json:"actions"`
}

type flux struct {
	HealthCheckExprs []map[string]string `json:"healthCheckExprs"`
}

type actions struct {
	Discovery   string `json:"discovery.lua"`
	Definitions []struct {
		Name   string `json:"name"`
		Action string `json:"action.lua"`
	} `json:"definitions"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	health, err := os.ReadFile(filepath.Join(folder, "argocd-health.lua"))
	if err != nil {
		return err
	}
	var acts actions
	if err := read(folder, "argocd-actions.yaml", &acts); err != nil {
		return err
	}
	var checks flux
	if err := read(folder, "flux.yaml", &checks); err != nil {
		return err
	}
	programs, err := compile(checks.HealthCheckExprs[0])
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		object := map[string]any{}
		if err := json.Unmarshal(lines.Bytes(), &object); err != nil {
			return err
		}
		// As Kubernetes reads it: whole numbers are whole.
		typed := &unstructured.Unstructured{}
		if err := typed.UnmarshalJSON(lines.Bytes()); err != nil {
			return err
		}
		computed, err := status.Compute(typed)
		if err != nil {
			return err
		}
		argo, err := script(string(health), object)
		if err != nil {
			return err
		}
		said, err := evaluate(programs, typed.Object)
		if err != nil {
			return err
		}
		done := map[string]any{}
		for _, one := range acts.Definitions {
			if done[one.Name], err = script(one.Action, object); err != nil {
				return fmt.Errorf("action %s: %w", one.Name, err)
			}
		}
		if done["discovery"], err = script(acts.Discovery, object); err != nil {
			return err
		}
		told := verdict{computed.Status.String(), argo.(map[string]any)["status"].(string), said, done}
		if err := out.Encode(told); err != nil {
			return err
		}
	}
	return lines.Err()
}

func read(folder, name string, into any) error {
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, into)
}

// In the order in which Flux asks: in progress, failed, current.
var asked = []string{"inProgress", "failed", "current"}

func compile(texts map[string]string) (map[string]cel.Program, error) {
	options := []cel.EnvOption{}
	for _, name := range []string{"apiVersion", "kind", "metadata", "spec", "status"} {
		options = append(options, cel.Variable(name, cel.DynType))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, err
	}
	programs := map[string]cel.Program{}
	for _, name := range asked {
		ast, issues := env.Compile(texts[name])
		if issues.Err() != nil {
			return nil, fmt.Errorf("%s: %w", name, issues.Err())
		}
		if programs[name], err = env.Program(ast); err != nil {
			return nil, err
		}
	}
	return programs, nil
}

func evaluate(programs map[string]cel.Program, object map[string]any) (string, error) {
	for _, name := range asked {
		value, _, err := programs[name].Eval(object)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		if value.Value() == true {
			return name, nil
		}
	}
	return "unknown", nil
}

// Runs a script as Argo CD does: the object is `obj`, what it returns is the answer.
func script(text string, object map[string]any) (any, error) {
	state := lua.NewState()
	defer state.Close()
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(text); err != nil {
		return nil, err
	}
	return fromLua(state.Get(-1)), nil
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, one := range value {
			table.RawSetString(key, toLua(state, one))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, one := range value {
			table.Append(toLua(state, one))
		}
		return table
	case string:
		return lua.LString(value)
	case float64:
		return lua.LNumber(value)
	case bool:
		return lua.LBool(value)
	default:
		return lua.LNil
	}
}

func fromLua(value lua.LValue) any {
	switch value := value.(type) {
	case *lua.LTable:
		if size := value.Len(); size > 0 {
			list := make([]any, 0, size)
			value.ForEach(func(_, one lua.LValue) { list = append(list, fromLua(one)) })
			return list
		}
		object := map[string]any{}
		value.ForEach(func(key, one lua.LValue) { object[key.String()] = fromLua(one) })
		return object
	case lua.LString:
		return string(value)
	case lua.LNumber:
		return float64(value)
	case lua.LBool:
		return bool(value)
	default:
		return nil
	}
}

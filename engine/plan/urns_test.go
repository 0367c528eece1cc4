package plan

import (
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// urn returns the URN that the Beam protos give to an enum value.
func urn(e interface {
	Descriptor() protoreflect.EnumDescriptor
	Number() protoreflect.EnumNumber
}) string {
	return proto.GetExtension(e.Descriptor().Values().ByNumber(e.Number()).Options(), pipepb.E_BeamUrn).(string)
}

func TestURNs(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{urnImpulse, urn(pipepb.StandardPTransforms_IMPULSE)},
		{urnGBK, urn(pipepb.StandardPTransforms_GROUP_BY_KEY)},
		{urnFlatten, urn(pipepb.StandardPTransforms_FLATTEN)},
		{urnTestStream, urn(pipepb.StandardPTransforms_TEST_STREAM)},
		{urnParDo, urn(pipepb.StandardPTransforms_PAR_DO)},
		{urnReshuffle, urn(pipepb.StandardPTransforms_RESHUFFLE)},
		{urnRedistributeArbitrary, urn(pipepb.StandardPTransforms_REDISTRIBUTE_ARBITRARILY)},
		{urnRedistributeByKey, urn(pipepb.StandardPTransforms_REDISTRIBUTE_BY_KEY)},
		{urnCombinePerKey, urn(pipepb.StandardPTransforms_COMBINE_PER_KEY)},
		{urnPrecombine, urn(pipepb.StandardPTransforms_COMBINE_PER_KEY_PRECOMBINE)},
		{urnMergeAccumulators, urn(pipepb.StandardPTransforms_COMBINE_PER_KEY_MERGE_ACCUMULATORS)},
		{urnExtractOutputs, urn(pipepb.StandardPTransforms_COMBINE_PER_KEY_EXTRACT_OUTPUTS)},
		{urnConvertToAccumulator, urn(pipepb.StandardPTransforms_COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS)},
		{urnCombineGroupedValues, urn(pipepb.StandardPTransforms_COMBINE_GROUPED_VALUES)},
		{urnPairWithRestriction, urn(pipepb.StandardPTransforms_PAIR_WITH_RESTRICTION)},
		{urnSplitAndSize, urn(pipepb.StandardPTransforms_SPLIT_AND_SIZE_RESTRICTIONS)},
		{urnProcessSized, urn(pipepb.StandardPTransforms_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS)},
		{urnTruncateSized, urn(pipepb.StandardPTransforms_TRUNCATE_SIZED_RESTRICTION)},
		{urnWindowInto, urn(pipepb.StandardPTransforms_ASSIGN_WINDOWS)},
		{urnMapWindows, urn(pipepb.StandardPTransforms_MAP_WINDOWS)},
		{urnMergeWindows, urn(pipepb.StandardPTransforms_MERGE_WINDOWS)},
		{urnToString, urn(pipepb.StandardPTransforms_TO_STRING)},
		{urnRead, urn(pipepb.StandardPTransforms_READ)},
		{urnIterableSideInput, urn(pipepb.StandardSideInputTypes_ITERABLE)},
		{urnMultimapSideInput, urn(pipepb.StandardSideInputTypes_MULTIMAP)},
		{urnBagState, urn(pipepb.StandardUserStateTypes_BAG)},
		{urnMultimapState, urn(pipepb.StandardUserStateTypes_MULTIMAP)},
		{urnOrderedListState, urn(pipepb.StandardUserStateTypes_ORDERED_LIST)},
		{urnGlobalWindows, urn(pipepb.GlobalWindowsPayload_PROPERTIES)},
		{urnSessionWindows, urn(pipepb.SessionWindowsPayload_PROPERTIES)},
	} {
		if c.got != c.want {
			t.Errorf("URN %s, Beam has %s", c.got, c.want)
		}
	}
}

func TestRequirements(t *testing.T) {
	// Every requirement that Beam has: one that a newer Beam adds fails this test, and is to be decided.
	values := pipepb.StandardRequirements_Enum(0).Descriptor().Values()
	for i := range values.Len() {
		u := proto.GetExtension(values.Get(i).Options(), pipepb.E_BeamUrn).(string)
		if !supportedRequirement(u) {
			t.Errorf("requirement %s is not supported", u)
		}
	}
}

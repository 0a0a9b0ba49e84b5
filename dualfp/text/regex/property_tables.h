// Facts of the Unicode Character Database that Oniguruma knows (Unicode 16) and PCRE2 10.42
// (Unicode 14) does not. General categories are not here: unicode_category.cc has them.

#pragma once

#include <string_view>

namespace dualfp {

struct PropertyData {
  std::string_view names;       // lower case, without separators; a space between them
  std::string_view known_as;    // what PCRE2 calls the property; empty where it has none
  std::string_view additional;  // ranges that PCRE2 lacks, in hexadecimal
  std::string_view excluded;    // code points that only PCRE2 has
};

constexpr PropertyData kProperties[] = {
    {"alphabetic alpha", "alphabetic",
     "363-36f 897 c04 cf3 f82-f83 1c89-1c8a 1dd3-1de6 a7cb-a7cd a7da-a7dc 105c0-105f3 "
     "10d4a-10d65 10d69 10d6f-10d85 10ec2-10ec4 10efc 11080-11081 1123f-11241 11380-11389 "
     "1138b 1138e 11390-113b5 113b7-113c0 113c2 113c5 113c7-113ca 113cc-113cd 113d1 113d3 "
     "11bc0-11be0 11f00-11f10 11f12-11f3a 11f3e-11f40 1342f 13441-13446 13460-143fa "
     "16100-1612e 16d40-16d6c 18cff 1b132 1b155 1df25-1df2a 1e030-1e06d 1e08f 1e4d0-1e4eb "
     "1e5d0-1e5ed 1e5f0 2b739 2ebf0-2ee5d 31350-323af",
     ""},
    {"arabic arab", "sc:arabic", "897 10ec2-10ec4 10efc-10eff", ""},
    {"balinese bali", "sc:balinese", "1b4e-1b4f 1b7f", ""},
    {"cased", "cased",
     "10fc 1c89-1c8a a7cb-a7cd a7da-a7dc a7f2-a7f4 ab69 10d50-10d65 10d70-10d85 1df25-1df2a "
     "1e030-1e06d",
     ""},
    {"caseignorable ci", "caseignorable",
     "897 ece 10d4e 10d69-10d6d 10d6f 10efc-10eff 11241 113bb-113c0 113ce 113d0 113d2 "
     "113e1-113e2 11f00-11f01 11f36-11f3a 11f40 11f42 11f5a 13439-13440 13447-13455 "
     "1611e-16129 1612d-1612f 16d40-16d42 16d6b-16d6c 1e030-1e06d 1e08f 1e4eb-1e4ef "
     "1e5ee-1e5ef",
     "1171e"},
    {"changeswhencasefolded cwcf", "changeswhencasefolded", "1c89 a7cb-a7cc a7da a7dc 10d50-10d65",
     ""},
    {"changeswhencasemapped cwcm", "changeswhencasemapped",
     "19b 264 1c89-1c8a a7cb-a7cd a7da-a7dc 10d50-10d65 10d70-10d85", ""},
    {"changeswhenlowercased cwl", "changeswhenlowercased", "1c89 a7cb-a7cc a7da a7dc 10d50-10d65",
     ""},
    {"changeswhentitlecased cwt", "changeswhentitlecased", "19b 264 1c8a a7cd a7db 10d70-10d85",
     ""},
    {"changeswhenuppercased cwu", "changeswhenuppercased", "19b 264 1c8a a7cd a7db 10d70-10d85",
     ""},
    {"common zyyy", "sc:common",
     "2427-2429 2ffc-2fff 31e4-31e5 31ef 1cc00-1ccf9 1cd00-1ceb3 1d2c0-1d2d3 1f6dc 1f774-1f776 "
     "1f77b-1f77f 1f7d9 1f8b2-1f8bb 1f8c0-1f8c1 1fa75-1fa77 1fa87-1fa89 1fa8f 1faad-1faaf "
     "1fabb-1fabf 1fac6 1face-1facf 1fada-1fadc 1fadf 1fae8-1fae9 1faf7-1faf8 1fbcb-1fbef",
     ""},
    {"cyrillic cyrl", "sc:cyrillic", "1c89-1c8a 1e030-1e06d 1e08f", ""},
    {"dash", "dash", "10d6e", ""},
    {"devanagari deva", "sc:devanagari", "11b00-11b09", ""},
    {"diacritic dia", "diacritic",
     "e3a 1734 1a60 1be6 1bf2-1bf3 a806 a82c 10a38-10a3a 10a3f 10d4e 10d69-10d6d 10efd-10eff "
     "1133b 113ce-113d0 113d2-113d3 113e1-113e2 11f41-11f42 11f5a 13447-13455 1612f "
     "16d6b-16d6c 1e030-1e06d 1e5ee-1e5ef",
     ""},
    {"egyptianhieroglyphs egyp", "sc:egyptianhieroglyphs", "1342f 13439-13455 13460-143fa", ""},
    {"emoji", "emoji",
     "1f6dc 1fa75-1fa77 1fa87-1fa89 1fa8f 1faad-1faaf 1fabb-1fabf 1fac6 1face-1facf "
     "1fada-1fadc 1fadf 1fae8-1fae9 1faf7-1faf8",
     ""},
    {"emojimodifierbase ebase", "emojimodifierbase", "1faf7-1faf8", ""},
    {"emojipresentation epres", "emojipresentation",
     "1f6dc 1fa75-1fa77 1fa87-1fa89 1fa8f 1faad-1faaf 1fabb-1fabf 1fac6 1face-1facf "
     "1fada-1fadc 1fadf 1fae8-1fae9 1faf7-1faf8",
     ""},
    {"extender ext", "extender", "a71 afb 10d4e 10d6a 10d6f 11237 113d2-113d3 1e5ef", ""},
    {"garay gara", "", "10d40-10d65 10d69-10d85 10d8e-10d8f", ""},
    {"graphemebase grbase", "graphemebase",
     "cf3 1b4e-1b4f 1b7f 1c89-1c8a 2427-2429 2ffc-2fff 31e4-31e5 31ef a7cb-a7cd a7da-a7dc "
     "105c0-105f3 10d40-10d65 10d6e-10d85 10d8e-10d8f 10ec2-10ec4 1123f-11240 11380-11389 "
     "1138b 1138e 11390-113b5 113b7 113b9-113ba 113ca 113cc-113cd 113d1 113d3-113d5 "
     "113d7-113d8 116d0-116e3 1171e 11b00-11b09 11bc0-11be1 11bf0-11bf9 11f02-11f10 "
     "11f12-11f35 11f3e-11f3f 11f43-11f59 1342f 13441-13446 13460-143fa 16100-1611d "
     "1612a-1612c 16130-16139 16d40-16d79 18cff 1b132 1b155 1cc00-1ccf9 1cd00-1ceb3 "
     "1d2c0-1d2d3 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e4f0-1e4f9 1e5d0-1e5ed 1e5f0-1e5fa "
     "1e5ff 1f6dc 1f774-1f776 1f77b-1f77f 1f7d9 1f8b2-1f8bb 1f8c0-1f8c1 1fa75-1fa77 "
     "1fa87-1fa89 1fa8f 1faad-1faaf 1fabb-1fabf 1fac6 1face-1facf 1fada-1fadc 1fadf "
     "1fae8-1fae9 1faf7-1faf8 1fbcb-1fbef 2b739 2ebf0-2ee5d 31350-323af",
     "cc0 cc7-cc8 cca-ccb 1715 1734 1b3b 1b3d 1b43-1b44 1baa 1bf2-1bf3 a953 a9c0 111c0 11235 1134d "
     "116b6 1193d 16ff0-16ff1 1d166 1d16d"},
    {"graphemeextend grext", "graphemeextend",
     "897 cc0 cc7-cc8 cca-ccb ece 1715 1734 1b3b 1b3d 1b43-1b44 1baa 1bf2-1bf3 a953 a9c0 "
     "10d69-10d6d 10efc-10eff 111c0 11235 11241 1134d 113b8 113bb-113c0 113c2 113c5 "
     "113c7-113c9 113ce-113d0 113d2 113e1-113e2 116b6 1193d 11f00-11f01 11f36-11f3a "
     "11f40-11f42 11f5a 13440 13447-13455 1611e-16129 1612d-1612f 16ff0-16ff1 1d166 1d16d "
     "1e08f 1e4ec-1e4ef 1e5ee-1e5ef",
     "1171e"},
    {"graphemelink grlink", "graphemelink", "113ce-113d0 11f41-11f42 1612f", ""},
    {"gurungkhema gukh", "", "16100-16139", ""},
    {"hani han", "sc:hani", "2b739 2ebf0-2ee5d 31350-323af", ""},
    {"hiragana hira", "sc:hiragana", "1b132", ""},
    {"hyphen", "", "2d ad 58a 1806 2010-2011 2e17 30fb fe63 ff0d ff65", ""},
    {"idcompatmathcontinue", "",
     "b2-b3 b9 2070 2074-207e 2080-208e 2202 2207 221e 1d6c1 1d6db 1d6fb 1d715 1d735 1d74f "
     "1d76f 1d789 1d7a9 1d7c3",
     ""},
    {"idcompatmathstart", "",
     "2202 2207 221e 1d6c1 1d6db 1d6fb 1d715 1d735 1d74f 1d76f 1d789 1d7a9 1d7c3", ""},
    {"idcontinue idc", "idcontinue",
     "897 cf3 ece 1c89-1c8a 200c-200d 30fb a7cb-a7cd a7da-a7dc ff65 105c0-105f3 10d40-10d65 "
     "10d69-10d6d 10d6f-10d85 10ec2-10ec4 10efc-10eff 1123f-11241 11380-11389 1138b 1138e "
     "11390-113b5 113b7-113c0 113c2 113c5 113c7-113ca 113cc-113d3 113e1-113e2 116d0-116e3 "
     "11bc0-11be0 11bf0-11bf9 11f00-11f10 11f12-11f3a 11f3e-11f42 11f50-11f5a 1342f "
     "13440-13455 13460-143fa 16100-16139 16d40-16d6c 16d70-16d79 18cff 1b132 1b155 "
     "1ccf0-1ccf9 1df25-1df2a 1e030-1e06d 1e08f 1e4d0-1e4f9 1e5d0-1e5fa 2b739 2ebf0-2ee5d "
     "31350-323af",
     ""},
    {"ideographic ideo", "ideographic", "18cff 2b739 2ebf0-2ee5d 31350-323af", ""},
    {"idsbinaryoperator idsb", "idsbinaryoperator", "2ffc-2ffd 31ef", ""},
    {"idstart ids", "idstart",
     "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 "
     "1123f-11240 11380-11389 1138b 1138e 11390-113b5 113b7 113d1 113d3 11bc0-11be0 11f02 "
     "11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa 16100-1611d 16d40-16d6c 18cff "
     "1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0 2b739 2ebf0-2ee5d "
     "31350-323af",
     ""},
    {"idsunaryoperator idsu", "", "2ffe-2fff", ""},
    {"kannada knda", "sc:kannada", "cf3", ""},
    {"katakana kana", "sc:katakana", "1b155", ""},
    {"kawi", "", "11f00-11f10 11f12-11f3a 11f3e-11f5a", ""},
    {"khitansmallscript kits", "sc:khitansmallscript", "18cff", ""},
    {"khojki khoj", "sc:khojki", "1123f-11241", ""},
    {"kiratrai krai", "", "16d40-16d79", ""},
    {"laoo lao", "sc:laoo", "ece", ""},
    {"latin latn", "sc:latin", "a7cb-a7cd a7da-a7dc 1df25-1df2a", ""},
    {"lowercase lower", "lowercase",
     "10fc 1c8a a7cd a7db a7f2-a7f4 ab69 10d70-10d85 1df25-1df2a 1e030-1e06d", ""},
    {"math", "math", "10d8e-10d8f", ""},
    {"modifiercombiningmark mcm", "", "654-655 658 6dc 6e3 6e7-6e8 8ca-8cb 8cd-8cf 8d3 8f3", ""},
    {"myanmar mymr", "sc:myanmar", "116d0-116e3", ""},
    {"nagmundari nagm", "", "1e4d0-1e4f9", ""},
    {"olonal onao", "", "1e5d0-1e5fa 1e5ff", ""},
    {"sentenceterminal sterm", "sentenceterminal",
     "17d4-17d5 1b4e-1b4f 1b7f 2024 2cf9-2cfb fe12 fe15-fe16 113d4-113d5 11f43-11f44 "
     "16d6e-16d6f",
     ""},
    {"softdotted sd", "softdotted", "1e04c-1e04d 1e068", ""},
    {"sunuwar sunu", "", "11bc0-11be1 11bf0-11bf9", ""},
    {"terminalpunctuation term", "terminalpunctuation",
     "1b4e-1b4f 1b7f 2024 2cf9-2cfb fe12 fe15-fe16 113d4-113d5 11f43-11f44 16d6e-16d6f", "836"},
    {"todhri todr", "", "105c0-105f3", ""},
    {"tulutigalari tutg", "",
     "11380-11389 1138b 1138e 11390-113b5 113b7-113c0 113c2 113c5 113c7-113ca 113cc-113d5 "
     "113d7-113d8 113e1-113e2",
     ""},
    {"unifiedideograph uideo", "unifiedideograph", "2b739 2ebf0-2ee5d 31350-323af", ""},
    {"uppercase upper", "uppercase", "1c89 a7cb-a7cc a7da a7dc 10d50-10d65", ""},
    {"xidcontinue xidc", "xidcontinue",
     "897 cf3 ece 1c89-1c8a 200c-200d 30fb a7cb-a7cd a7da-a7dc ff65 105c0-105f3 10d40-10d65 "
     "10d69-10d6d 10d6f-10d85 10ec2-10ec4 10efc-10eff 1123f-11241 11380-11389 1138b 1138e "
     "11390-113b5 113b7-113c0 113c2 113c5 113c7-113ca 113cc-113d3 113e1-113e2 116d0-116e3 "
     "11bc0-11be0 11bf0-11bf9 11f00-11f10 11f12-11f3a 11f3e-11f42 11f50-11f5a 1342f "
     "13440-13455 13460-143fa 16100-16139 16d40-16d6c 16d70-16d79 18cff 1b132 1b155 "
     "1ccf0-1ccf9 1df25-1df2a 1e030-1e06d 1e08f 1e4d0-1e4f9 1e5d0-1e5fa 2b739 2ebf0-2ee5d "
     "31350-323af",
     ""},
    {"xidstart xids", "xidstart",
     "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 "
     "1123f-11240 11380-11389 1138b 1138e 11390-113b5 113b7 113d1 113d3 11bc0-11be0 11f02 "
     "11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa 16100-1611d 16d40-16d6c 18cff "
     "1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0 2b739 2ebf0-2ee5d "
     "31350-323af",
     ""},
};

// The scripts that PCRE2 knows: for each its names with a space between them, and a semicolon.
constexpr std::string_view kScripts =
    "adlam adlm;ahom;anatolianhieroglyphs hluw;arabic arab;armenian armn;avestan avst;"
    "balinese bali;bamum bamu;bassavah bass;batak batk;bengali beng;bhaiksuki bhks;"
    "bopomofo bopo;brahmi brah;braille brai;buginese bugi;buhid buhd;"
    "canadianaboriginal cans;carian cari;caucasianalbanian aghb;chakma cakm;cham;"
    "cherokee cher;chorasmian chrs;common zyyy;coptic copt qaac;cuneiform xsux;"
    "cypriot cprt;cyprominoan cpmn;cyrillic cyrl;deseret dsrt;devanagari deva;"
    "divesakuru diak;dogra dogr;duployan dupl;egyptianhieroglyphs egyp;elbasan elba;"
    "elymaic elym;ethiopic ethi;georgian geor;glagolitic glag;gothic goth;grantha gran;"
    "greek grek;gujarati gujr;gunjalagondi gong;gurmukhi guru;hangul hang;hani han;"
    "hanifirohingya rohg;hanunoo hano;hatran hatr;hebrew hebr;hiragana hira;"
    "imperialaramaic armi;inherited qaai zinh;inscriptionalpahlavi phli;"
    "inscriptionalparthian prti;javanese java;kaithi kthi;kannada knda;katakana kana;"
    "kayahli kali;kharoshthi khar;khitansmallscript kits;khmer khmr;khojki khoj;"
    "khudawadi sind;laoo lao;latin latn;lepcha lepc;limbu limb;lineara lina;linearb linb;"
    "lisu;lycian lyci;lydian lydi;mahajani mahj;makasar maka;malayalam mlym;mandaic mand;"
    "manichaean mani;marchen marc;masaramgondi gonm;medefaidrin medf;meeteimayek mtei;"
    "mendekikakui mend;meroiticcursive merc;meroitichieroglyphs mero;miao plrd;modi;"
    "mongolian mong;mroo mro;multani mult;myanmar mymr;nabataean nbat;nandinagari nand;"
    "newa;newtailue talu;nkoo nko;nushu nshu;nyiakengpuachuehmong hmnp;ogham ogam;"
    "olchiki olck;oldhungarian hung;olditalic ital;oldnortharabian narb;oldpermic perm;"
    "oldpersian xpeo;oldsogdian sogo;oldsoutharabian sarb;oldturkic orkh;olduyghur ougr;"
    "oriya orya;osage osge;osmanya osma;pahawhhmong hmng;palmyrene palm;paucinhau pauc;"
    "phagspa phag;phoenician phnx;psalterpahlavi phlp;rejang rjng;runic runr;"
    "samaritan samr;saurashtra saur;sharada shrd;shavian shaw;siddham sidd;"
    "signwriting sgnw;sinhala sinh;sogdian sogd;sorasompeng sora;soyombo soyo;"
    "sundanese sund;sylotinagri sylo;syriac syrc;tagalog tglg;tagbanwa tagb;taile tale;"
    "taitham lana;taiviet tavt;takri takr;tamil taml;tangsa tnsa;tangut tang;telugu telu;"
    "thaana thaa;thai;tibetan tibt;tifinagh tfng;tirhuta tirh;toto;ugaritic ugar;vaii vai;"
    "vithkuqi vith;wancho wcho;warangciti wara;yezidi yezi;yiii yi;zanabazarsquare zanb;";

}  // namespace dualfp
